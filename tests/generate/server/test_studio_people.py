"""People in the studio, in a real browser: what is clicked, drawn and painted is what is sent."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support.programs.commands import call
from support.visits import EXTRACT, MODELS, needs_browser, wait

from pulid_extract.shared.embedding_file import encode_embedding

needs_browser()

pytestmark = pytest.mark.slow


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
    visitor.save("second")
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


def test_two_people_are_placed_by_dragging_their_boxes(visit, tmp_path):
    visitor = visit()
    page = visitor.page
    people = {}
    for number, name in enumerate(("ada", "ben")):
        people[name] = tmp_path / f"{name}.pulidembd"
        # as wide as the small world's
        people[name].write_bytes(encode_embedding(np.full((4, 512), number, np.float32)))
    for name, path in people.items():
        files = {"name": f"{name}.pulidembd", "mimeType": "", "buffer": path.read_bytes()}
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
    # from a picture of another size they come back as they were there
    told = []
    for path, box in zip(people.values(), ([1, 2, 30, 40], [64, 0, 48, 90]), strict=True):
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        told.append({"sha256": sha256, "weight": 1, "start_step": 0, "box": box})
    facts = {"pulid_generate": "1", "t5_tokens": [32], "prompt": "x", "seed": 1, "sigmas": [1, 0]}
    facts |= {"width": 128, "height": 96, "steps": 1, "identities": told}
    info = PngInfo()
    info.add_text("parameters", f"x\n{json.dumps(facts)}")
    Image.new("RGB", (16, 16)).save(tmp_path / "two.png", pnginfo=info)
    page.set_input_files("#restore", str(tmp_path / "two.png"))
    page.wait_for_selector("#place-choices >> text=ben: 64, 0, 48, 90")
    page.wait_for_selector("#place-choices >> text=ada: 1, 2, 30, 40")
    assert page.input_value("#width") == "128"


def test_the_faces_alone_of_a_picture_are_redrawn(visit, studio, portraits):
    visitor = visit()
    page = visitor.page
    visitor.give(portraits / "ada.png")
    visitor.save("me")
    page.click("#edit-part summary")
    page.set_input_files("#init", str(portraits / "two.png"))
    page.check("text=The faces alone")
    # the picture's own size, not that of drawn ones
    width, height = Image.open(portraits / "two.png").size
    page.wait_for_selector(f"#place-choices >> text=me: 0, 0, {width}, {height}")
    assert page.is_disabled("#count")
    page.fill("#steps", "1")
    page.click("#draw")
    page.wait_for_selector("#current figure img")
    [job] = [job for job in studio.server.queue._jobs.values() if job.detail_img is not None]
    assert job.asked["pulid_id_embedding"] == "me.pulidembd"
    assert not {"width", "height", "batch_count", "init_img", "prompt"} & set(job.asked)
    drawn, before = Image.open(job.folder / "0.png"), Image.open(portraits / "two.png")
    differs = np.asarray(drawn.convert("RGB")) != np.asarray(before.convert("RGB"))
    halves = differs[:, : width // 2].any(), differs[:, width // 2 :].any()
    # one face, the largest
    assert sorted(halves) == [False, True]
    # now the other one's: its half is the box
    left = 0.52 if halves[0] else 0.06
    visitor.drag((left, 0.25), (left + 0.42, 0.95), "#place")
    page.click("#draw")
    wait(lambda: page.locator("#gallery img").count() == 2)
    job = max(studio.server.queue._jobs.values(), key=lambda job: job.created)
    assert job.asked["identity"][0].startswith("me.pulidembd,weight=1,box=")
    drawn = Image.open(job.folder / "0.png")
    differs = np.asarray(drawn.convert("RGB")) != np.asarray(before.convert("RGB"))
    assert (differs[:, : width // 2].any(), differs[:, width // 2 :].any()) == halves[::-1]
    # a picture's metadata says that it was faces
    page.click("text=Remove the picture")
    assert page.is_enabled("#count")
    page.set_input_files("#restore", str(job.folder / "0.png"))
    page.wait_for_selector("#form-note >> text=faces were redrawn")
    assert page.is_checked("[name=init-what][value=faces]")
