"""The studio's fields for pictures beside the prompt, on a server whose models read them:
ControlNets, one of them a union, and FLUX.1 Kontext.
"""

from __future__ import annotations

import pytest
from PIL import Image
from seeded.checkpoints import write_embedding
from support.models.control_files import write_control
from support.visits import Visit, needs_browser, wait

from pulid_generate.errors import CheckpointError

needs_browser()


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nets")
    sizes = {"context": 64, "pooled": 64, "double": 1, "single": 1}
    union = write_control(folder / "union.safetensors", modes=7, **sizes)
    return [str(write_control(folder / "edges.safetensors", **sizes)), str(union)]


@pytest.fixture(scope="module")
def served(micro, kontext, nets, tmp_path_factory):
    from support.served import micro_serve_flags, serving

    folder = tmp_path_factory.mktemp("conditions")
    people = folder / "people"
    people.mkdir()
    write_embedding(people / "me.pulidembd")
    models = {"identities": str(people), "diffusion_model": str(kontext), "control_net": nets}
    with serving(micro_serve_flags(micro, folder, **models)) as running:
        yield running


def test_a_mode_is_chosen_for_the_union_and_a_picture_left_out_again(chromium, served, tmp_path):
    paths = []
    for colour in ("white", "black"):
        paths.append(tmp_path / f"{colour}.png")
        Image.new("RGB", (64, 48), colour).save(paths[-1])
    visit = Visit(chromium, served, viewport={"width": 390, "height": 844})
    page = visit.page
    page.check("#people input[type=checkbox]")
    page.click("#advanced-part > summary")
    for name in ("ControlNet", "Reference pictures"):
        page.click(f"#advanced summary:has-text('{name}')")
    assert "edges.safetensors, union.safetensors" in page.inner_text("#advanced")
    page.set_input_files("#field-control_image", [str(path) for path in paths])
    wait(lambda: page.locator("#field-control_image + ul img").count() == 2)
    # what the server cannot read is said at its field
    text = tmp_path / "text.png"
    text.write_text("no picture")
    page.set_input_files("#field-ref_image", str(text))
    page.fill("#prompt", "a photo of a cat")
    page.click("#draw")
    page.wait_for_selector("#field-ref_image[aria-invalid=true]")
    assert "is not a readable" in page.inner_text("#form-error")
    page.click("[aria-label='Leave out white.png']")
    page.select_option("#field-control_mode", "pose")
    page.set_input_files("#field-ref_image", str(paths[0]))
    page.click("#draw")
    page.wait_for_selector("#current figure img")
    # nothing is wider than the telephone
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    drawn = page.get_attribute("#current figure img", "src")
    job = served.server.queue.get(drawn.split("/")[3])
    assert job.asked["control_mode"] == ["", "pose"]
    assert (len(job.asked["control_image"]), len(job.asked["ref_image"])) == (1, 1)
    # its pictures are sent once more
    page.click("#compare")
    page.wait_for_selector("[aria-label^='Left: with the person']")
    # the settings come back, but for the pictures
    page.select_option("#field-control_mode", "tile")
    page.click("#current button:has-text('Restore the settings')")
    wait(lambda: page.input_value("#field-control_mode") == "pose")
    assert page.locator("#field-control_image + ul img").count() == 0
    # the browser tells of every answer that refuses
    assert all("400" in told for told in visit.errors)
    visit.errors.clear()
    visit.close()


def test_a_net_that_does_not_fit_is_refused_before_anybody_asks(micro, nets, tmp_path):
    from support.served import micro_serve_flags, serving

    wide = str(write_control(tmp_path / "wide.safetensors", context=96, double=1, single=1))
    flags = micro_serve_flags(micro, tmp_path, control_net=[nets[0], wide])
    with (
        pytest.raises(CheckpointError, match=r"wide\.safetensors: is a ControlNet of context 96"),
        serving(flags),
    ):
        pass


def test_a_mode_that_a_net_lacks_is_the_requests_mistake(served, tmp_path):
    from support.served import of_file

    fields = {"prompt": "a cat", "control_image": ["p.png"], "control_mode": ["pose"]}
    Image.new("RGB", (64, 48)).save(tmp_path / "p.png")
    files = {"p.png": of_file(tmp_path / "p.png")}
    with served.client() as client:
        told = client.post("/v1/jobs", json=fields | {"files": files})
    assert told.status_code == 400, told.text
    assert "edges.safetensors: is no union" in told.json()["detail"]


def test_no_other_flux_reads_reference_pictures(micro, tmp_path):
    from support.served import micro_serve_flags, of_file, serving

    Image.new("RGB", (64, 48)).save(tmp_path / "p.png")
    files = {"p.png": of_file(tmp_path / "p.png")}
    dev = str(micro / "dev" / "flux1-dev.safetensors")
    flags = micro_serve_flags(micro, tmp_path, diffusion_model=dev)
    with serving(flags) as running, running.client() as client:
        fields = {"prompt": "a cat", "ref_image": ["p.png"], "files": files}
        told = client.post("/v1/jobs", json=fields)
    assert told.status_code == 400, told.text
    assert told.json()["detail"].startswith("ref_image: no Flux but FLUX.1 Kontext")
