"""The studio in a real browser, on the small world: from a portrait to a downloaded picture; what is
clicked, drawn and painted is what is sent.
"""

from __future__ import annotations

import base64
import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image
from support.commands import call
from support.paths import ROOT
from support.served import Served, serving

from pulid_generate.flags.commands import ServeFlags

CHROMIUM = shutil.which("chromium")
REQUIRED = os.environ.get("PULID_REQUIRE_BROWSER") == "1"
MODELS = ROOT / "scripts" / "micro_world" / "models"
EXTRACT = ("--aligner", "antelopev2", "--parser", "none")
SECONDS = 120

if not REQUIRED:
    pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
    pytest.importorskip("playwright", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on the PATH", allow_module_level=True)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    """ada.png; two.png, of ada and ben beside each other; turned.jpg, 4000x3000 by its EXIF."""
    from micro_world.dataset import PORTRAIT
    from micro_world.drawing import draw
    from micro_world.people import FIRST_TEST_PERSON, Person
    from micro_world.scenes import Scene

    folder = tmp_path_factory.mktemp("portraits")
    scene = Scene(background=7, clothes=5)
    faces = []
    for number in (4, 5):
        person = Person.of(FIRST_TEST_PERSON + number)
        faces.append(Image.fromarray(draw(person, scene, PORTRAIT).pixels))
    faces[0].save(folder / "ada.png")
    width, height = faces[0].size
    two = Image.new("RGB", (2 * width, height))
    for place, face in enumerate(faces):
        two.paste(face, (place * width, 0))
    two.save(folder / "two.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    upright = faces[0].resize((3000, 4000))
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=exif)
    return folder


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio")
    flags = ServeFlags(
        models_dir=str(MODELS),
        device="cpu",
        width=96,
        height=96,
        steps=4,
        t5_max_length=32,
        output_dir=str(folder / "studio"),
        extract_flags=" ".join((*EXTRACT, "--no-cache")),
        quiet=True,
    )
    with serving(flags) as running:
        yield running


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


def wait(condition) -> None:
    """Until it holds; the page's policy lets nothing be evaluated that waits there."""
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


class Visit:
    """One visitor's page."""

    def __init__(self, chromium, studio: Served, **options):
        self.context = chromium.new_context(accept_downloads=True, **options)
        self.context.set_default_timeout(SECONDS * 1000)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._hear)
        self.page.on("request", lambda request: self._see(request.url, studio.address))
        self.page.goto(studio.address)
        self.page.wait_for_selector("body[data-ready]")

    def _hear(self, message) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _see(self, url: str, address: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            self.elsewhere.append(url)

    def give(self, path) -> None:
        """A portrait; waits until its faces are framed."""
        self.page.set_input_files("#portraits", str(path))
        self.page.wait_for_selector("#faces button")

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Where a share of the portrait is in the window."""
        canvas = self.page.locator("#portrait")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        return box["x"] + box["width"] * x, box["y"] + box["height"] * y

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.page.mouse.move(*self.point(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.point(*end), steps=6)
        self.page.mouse.up()

    def close(self) -> None:
        self.context.close()
        assert self.errors == []
        assert self.elsewhere == []


@pytest.fixture
def visit(chromium, studio):
    opened: list[Visit] = []

    def start(**options) -> Visit:
        opened.append(Visit(chromium, studio, **options))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_from_a_portrait_to_a_downloaded_picture(visit, portraits, studio):
    visitor = visit()
    page = visitor.page
    # dropped, as from the desktop
    data = base64.b64encode((portraits / "ada.png").read_bytes()).decode()
    dropped = page.evaluate_handle(
        """data => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "ada.png", { type: "image/png" }));
            return transfer;
        }""",
        data,
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    page.wait_for_selector("#faces button")
    page.fill("#person-name", "ada")
    page.click("#use")
    page.wait_for_selector("#people >> text=ada")
    page.fill("#prompt", "a portrait of a person, smiling")
    page.fill("#seed", "7")
    page.click("#draw")
    page.wait_for_selector("#jobs progress")
    page.wait_for_selector("#current figure img")
    # beside it, how like ada it is; asked for once
    page.wait_for_selector("#current .likeness >> text=/^likeness 0[.][0-9][0-9]$/")
    with page.expect_download() as download:
        page.click("#current figcaption a")
    drawn = download.value.path().read_bytes()
    [job] = [job for job in studio.server.queue._jobs.values() if job.visitor]
    assert job.asked["pulid_id_embedding"] == "ada.pulidembd"
    [[likeness]] = job.likenesses.values()
    assert likeness["likeness"] > 0.5
    assert (likeness["name"], likeness["faces"]) == ("ada", 1)
    assert drawn == (job.folder / "0.png").read_bytes()
    page.reload()
    page.wait_for_selector("#gallery img")
    assert page.locator("#gallery img").count() == 1
    page.set_input_files(
        "#restore", files=[{"name": "a.png", "mimeType": "image/png", "buffer": drawn}]
    )
    wait(lambda: page.input_value("#seed") == "7")
    assert page.input_value("#prompt") == "a portrait of a person, smiling"
    other = visit()
    assert other.page.locator("#gallery img").count() == 0
    assert other.page.locator("#people >> text=ada").count() == 0


def test_the_second_face_clicked_is_the_one_extracted(
    visit, studio, portraits, tmp_path, capfd, monkeypatch
):
    visitor = visit()
    page = visitor.page
    visitor.give(portraits / "two.png")
    assert page.locator("#faces button").count() == 2
    # by the keyboard to the second one, and the pointer says the same
    page.focus("#portrait")
    page.keyboard.press("ArrowRight")
    assert page.locator("#faces [aria-checked=true]").inner_text() == "Face 2"
    page.click("#faces button >> nth=0")
    assert page.locator("#faces [aria-checked=true]").inner_text() == "Face 1"
    command = ["--models-dir", str(MODELS), *EXTRACT, "--no-cache"]
    path = str(portraits / "two.png")
    x, y, width, height = studio.server.worker.ask("faces", {"photo": path})["faces"][1]["box"]
    whole = Image.open(path).size
    page.mouse.click(*visitor.point((x + width / 2) / whole[0], (y + height / 2) / whole[1]))
    assert page.locator("#faces [aria-checked=true]").inner_text() == "Face 2"
    page.fill("#person-name", "second")
    page.click("#use")
    page.wait_for_selector("#people >> text=second")
    with page.expect_download() as download:
        page.click("#people a")
    out = tmp_path / "second.pulidembd"
    flags = ["--face-index", "1", *command]
    code, _, err = call(capfd, monkeypatch, "--portrait", path, "--out", str(out), *flags)
    assert code == 0, err
    assert download.value.path().read_bytes() == out.read_bytes()


def test_a_box_on_a_turned_photograph_in_a_phones_window(visit, portraits):
    visitor = visit(viewport={"width": 375, "height": 700}, device_scale_factor=3)
    page = visitor.page
    visitor.give(portraits / "turned.jpg")
    page.check("text=Draw a box")
    visitor.drag((0.25, 0.125), (0.75, 0.5))
    told = page.inner_text("#portrait-busy")
    numbers = [int(part) for part in told.removeprefix("box ").split(" (")[0].split(", ")]
    # the portrait is 3000x4000 upright; the window's points have fractions of about 9 pixels each
    canvas = page.locator("#portrait").bounding_box()
    assert abs(canvas["height"] / canvas["width"] - 4 / 3) < 0.01
    shown = page.evaluate(
        "(() => { const b = document.getElementById('portrait')"
        ".getBoundingClientRect(); return [b.left, b.top, b.width, b.height] })()"
    )
    assert np.allclose(numbers, [750, 500, 1500, 1500], atol=1 + 3000 / shown[2] / 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    # what a finger cannot, numbers and keys can: a pixel of 3000
    for place, number in enumerate((751, 502, 1499, 1503)):
        page.fill(f"#box-{place}", str(number))
        page.press(f"#box-{place}", "Tab")
    assert page.inner_text("#portrait-busy").startswith("box 751, 502, 1499, 1503 ")
    page.focus("#portrait")
    for key in ("ArrowRight", "Shift+ArrowDown", "Alt+ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
    assert page.inner_text("#portrait-busy").startswith("box 752, 511, 1498, 1503 ")
    assert page.input_value("#box-1") == "511"
    # never beyond the photograph
    page.fill("#box-0", "2900")
    page.press("#box-0", "Tab")
    assert page.input_value("#box-0") == str(3000 - 1498)


def test_a_painted_mask_comes_out_as_painted(visit, studio, portraits, monkeypatch):
    visitor = visit(viewport={"width": 375, "height": 700})
    page = visitor.page
    visitor.give(portraits / "ada.png")
    page.wait_for_selector("#seen-face[src]")
    page.check("text=Cover with a brush")
    page.fill("#brush-size", "20")
    sent = []
    ask = studio.server.worker.ask

    def hear(task, fields):
        sent.append(np.asarray(Image.open(fields["mask"]).convert("L")))
        return ask(task, fields)

    monkeypatch.setattr(studio.server.worker, "ask", hear)
    visitor.drag((0.2, 0.3), (0.8, 0.3))
    wait(lambda: sent)
    [mask] = sent
    portrait = Image.open(portraits / "ada.png")
    assert mask.shape == portrait.size[::-1]
    height, width = mask.shape
    assert set(np.unique(mask)) == {0, 255}
    line = round(0.3 * height)
    assert (mask[line, round(0.22 * width) : round(0.78 * width)] == 0).all()
    shown = page.locator("#portrait").bounding_box()["width"]
    half = 10 * width / shown
    covered = (mask[:, width // 2] == 0).nonzero()[0]
    assert abs(covered.min() - (line - half)) <= 2
    assert abs(covered.max() - (line + half)) <= 2
    assert (mask[: line - round(half) - 3] == 255).all()
    # a click without a way is a dab
    page.mouse.click(*visitor.point(0.5, 0.9))
    wait(lambda: len(sent) > 1)
    assert sent[-1][round(0.9 * height), width // 2] == 0
    page.wait_for_selector("#seen[aria-busy=false]")


def test_two_people_are_placed_by_dragging_their_boxes(visit, person):
    visitor = visit()
    page = visitor.page
    for name in ("ada", "ben"):
        files = {"name": f"{name}.pulidembd", "mimeType": "", "buffer": person.read_bytes()}
        page.set_input_files("#embedding", files=[files])
        page.wait_for_selector(f"#people >> text={name}")
    outline = page.locator("#place")
    outline.scroll_into_view_if_needed()
    shown = outline.bounding_box()

    def drag(start: tuple[float, float], end: tuple[float, float]) -> None:
        for move, (x, y) in ((page.mouse.down, start), (page.mouse.up, end)):
            page.mouse.move(shown["x"] + shown["width"] * x, shown["y"] + shown["height"] * y)
            move()

    # of 96 pixels: ada anew, then by her lower right corner; ben by the keyboard
    drag((0.125, 0.25), (0.375, 0.75))
    drag((0.375, 0.75), (0.5, 1))
    page.focus("#place")
    for key in ("Enter", "Alt+ArrowLeft", "Shift+Alt+ArrowUp", "ArrowDown"):
        page.keyboard.press(key)
    sent = []
    page.route("**/v1/jobs", lambda route: sent.append(route.request.post_data) or route.abort())
    page.fill("#prompt", "two people")
    page.click("#draw")
    wait(lambda: sent)
    assert "ada,weight=1,box=12,24,36,72" in sent[0]
    assert "ben,weight=1,box=48,1,47,86" in sent[0]
    page.wait_for_selector("#form-error >> text=does not answer")
    visitor.errors.clear()  # of the request that was stopped here


def test_cancel_stops_within_two_steps(visit, studio, monkeypatch):
    """Of the server's own count, from the moment that the page's request arrives."""
    queue, told = studio.server.queue, []
    cancel = queue.cancel

    def cancelled(job):
        told.append(job.step[0])
        cancel(job)

    monkeypatch.setattr(queue, "cancel", cancelled)
    visitor = visit()
    page = visitor.page
    page.fill("#prompt", "a portrait of a person")
    page.fill("#steps", "100")
    page.click("#draw")
    page.wait_for_selector("#jobs .state >> text=/^step [2-9]/")
    assert page.locator("#jobs img.preview").is_visible()
    page.click("#jobs .cancel")
    page.wait_for_selector("#current >> text=cancelled")
    job = max(studio.server.queue._jobs.values(), key=lambda job: job.created)
    assert job.state == "cancelled"
    assert job.step[0] <= told[0] + 2


def test_a_sweep_of_two_options(visit, studio):
    visitor = visit()
    page = visitor.page
    page.fill("#prompt", "a portrait of a person")
    page.fill("#steps", "1")
    page.select_option("#sweep-option", "seed")
    page.fill("#sweep-values", "3, 4")
    page.select_option("#sweep-option-2", "seed")
    page.click("#sweep")
    assert "the same option" in page.inner_text("#sweep-error")
    page.select_option("#sweep-option-2", "guidance")
    page.fill("#sweep-values-2", "2, 5")
    page.click("#sweep")
    wait(lambda: page.locator("#sweep-pictures td img").count() == 4)
    assert page.locator("#sweep-pictures th[scope=col]").all_inner_texts() == ["seed 3", "seed 4"]
    assert page.locator("#sweep-pictures th[scope=row]").count() == 2
    last = page.locator("#sweep-pictures td img >> nth=3")
    assert last.get_attribute("alt") == "seed 4, guidance 5"
    jobs = [job.asked for job in studio.server.queue._jobs.values() if "guidance" in job.asked]
    asked = {(int(job["seed"]), float(job["guidance"])) for job in jobs}
    assert asked == {(3, 2.0), (4, 2.0), (3, 5.0), (4, 5.0)}


def test_a_validation_through_the_queue(visit, studio, portraits):
    visitor = visit()
    page = visitor.page
    visitor.give(portraits / "ada.png")
    page.fill("#person-name", "ada")
    page.click("#use")
    page.wait_for_selector("#people >> text=ada")
    page.fill("#steps", "4")
    page.fill("#validate-prompts", "a portrait of a person, smiling\n\na person in a red shirt")
    page.click("#validate")
    page.wait_for_selector("#validate-error >> text=reference: missing")
    visitor.errors.clear()  # the browser says of itself that a request was refused
    page.set_input_files("#validate-reference", str(portraits / "ada.png"))
    page.click("#validate")
    page.wait_for_selector("#validations a >> text=report")
    assert "closer than weight 0 in 100 %" in page.inner_text("#validations li")
    address = page.get_attribute("#validations a", "href")
    told = page.request.get(f"{studio.address}{address}.json").json()
    assert told["version"] == 2
    assert [picture["status"] for picture in told["pictures"]] == ["ok"] * 4
    assert told["measures"]["mean_likeness"] > 0.5 > 0.3 > told["runs"]["weight_0"]["highest"]
    assert told["references"][0]["name"] == "reference0.png"
    page.goto(f"{studio.address}{address}")
    assert page.inner_text("h1") == "Identity validation"
    assert "ada.pulidembd" in page.inner_text("header")
    # its pictures are no pictures of the gallery, and nobody else's
    assert page.request.get(f"{studio.address}/v1/jobs").json()["jobs"] == []
    other = visit()
    assert other.page.request.get(f"{studio.address}{address}").status == 404
    assert other.page.locator("#validations li").count() == 0
    page.goto(studio.address)
    page.click("#validations button")
    wait(lambda: not list(studio.server.settings.folder.glob("*/validation-*")))


def test_the_page_of_routes_needs_nothing_but_itself(visit, studio):
    visitor = visit()
    page = visitor.page
    page.goto(f"{studio.address}/docs")
    assert page.inner_text("h1").startswith("pulid-generate")
    heads = page.locator("section h2").all_inner_texts()
    assert any(head.lower().split() == ["post", "/v1/jobs"] for head in heads)
    fields = page.locator("section:has-text('/v1/jobs') th code").all_inner_texts()
    assert {"prompt", "portraits", "face_index"} <= set(fields)
    assert page.locator("script").count() == 0


def test_a_wrong_number_is_a_sentence_at_its_field(visit):
    visitor = visit()
    page = visitor.page
    page.fill("#prompt", "a portrait of a person")
    page.fill("#width", "100")
    page.click("#draw")
    page.wait_for_selector("#form-error:not(:empty)")
    assert "expected a multiple of 16" in page.inner_text("#form-error")
    assert page.get_attribute("#width", "aria-invalid") == "true"
    # the browser says of itself that a request was refused
    assert [error for error in visitor.errors if "400" not in error] == []
    visitor.errors.clear()


def test_every_control_has_a_name(visit):
    page = visit().page
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("input, select, textarea, button, canvas")]
            .filter((control) => !control.labels?.length && !control.getAttribute("aria-label")
                && !control.textContent.trim())
            .map((control) => control.outerHTML)"""
    )
    assert nameless == []
