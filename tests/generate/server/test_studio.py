"""The studio in a real browser, on the small world: from a portrait to a downloaded picture."""

from __future__ import annotations

import base64

import pytest
from support.visits import needs_browser, wait

needs_browser()

pytestmark = pytest.mark.slow


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
    visitor.save("ada")
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
    visitor.save("ada")
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
