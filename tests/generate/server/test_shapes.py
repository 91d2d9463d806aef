"""What clients of other servers send: OpenAI's and WebUI's shapes; and validations over HTTP."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import replace

import pytest
from support.served import (
    PROMPT,
    WAIT,
    drawn,
    micro_serve_flags,
    of_file,
    serving,
    wait_for,
)

from pulid_generate.errors import RequestError
from pulid_generate.server.settings import FORGET_SECONDS

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

# ------------------------------------------------------------------------------------ other shapes


def test_the_openai_package(served, draw, kept, tmp_path):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{served.address}/v1", api_key="none", max_retries=0)
    assert client.models.list().data[0].id == "flux1-schnell"
    extra = {"pulid_id_embedding": "me", "seed": 7}
    made = client.images.generate(
        model="flux", prompt=PROMPT, n=1, size="64x48", quality="high", extra_body=extra
    )
    wanted = draw(*kept.pulid, "--pulid-id-embedding", kept.me, "--seed", 7).data
    assert base64.b64decode(made.data[0].b64_json) == wanted

    from PIL import Image

    picture, mask = tmp_path / "start.png", tmp_path / "mask.png"
    Image.new("RGB", (64, 48), "orange").save(picture)
    Image.new("L", (64, 48), 0).save(mask)
    with Image.open(mask) as image:
        image.paste(255, (0, 0, 32, 48))
        image.save(mask)
    wanted = draw("--init-img", picture, "--mask", mask, "--seed", 7).data
    theirs = tmp_path / "theirs.png"
    with Image.open(mask) as image:
        transparent = Image.new("RGBA", (64, 48), "black")
        transparent.putalpha(image.point(lambda value: 255 - value))
        transparent.save(theirs)
    edited = client.images.edit(
        image=picture.open("rb"), mask=theirs.open("rb"), prompt=PROMPT, extra_body={"seed": 7}
    )
    assert base64.b64decode(edited.data[0].b64_json) == wanted
    with pytest.raises(openai.BadRequestError, match="unknown field"):
        client.images.generate(prompt=PROMPT, extra_body={"sede": 7})


def test_without_a_seed_openais_route_draws_another_picture_each_time(client):
    seeds = set()
    for _ in range(2):
        body = {"prompt": PROMPT, "steps": 1, "user": "me"}
        told = client.post("/v1/images/generations", json=body).json()
        seeds.add(told["data"][0]["seed"])
        assert told["ignored"] == ["user"]
    assert len(seeds) == 2


def test_what_a_webui_client_sends(client, draw):
    assert client.get("/sdapi/v1/sd-models").json()[0]["title"] == "flux1-schnell"
    assert {"name": "euler_a", "aliases": ["euler_a"], "options": {}} in client.get(
        "/sdapi/v1/samplers"
    ).json()
    assert client.post("/sdapi/v1/options", json={"sd_vae": "x"}).json() == {"ignored": ["sd_vae"]}
    body = {
        "prompt": PROMPT,
        "negative_prompt": "",
        "width": 64,
        "height": 48,
        "steps": 2,
        "cfg_scale": 1,
        "seed": 7,
        "batch_size": 1,
        "sampler_name": "Euler",
        "scheduler": "",
        "clip_skip": 1,
        "denoising_strength": 0.7,
    }
    told = client.post("/sdapi/v1/txt2img", json=body).json()
    assert base64.b64decode(told["images"][0]) == draw("--seed", 7).data
    info = json.loads(told["info"])
    assert info["all_seeds"] == [7]
    assert info["ignored"] == ["clip_skip"]
    assert info["infotexts"][0].startswith(PROMPT)
    larger = {"enable_hr": True, "hr_scale": 2, "hr_resize_x": 64, "hr_second_pass_steps": 3}
    told = client.post("/sdapi/v1/txt2img", json=body | larger).json()
    wanted = draw("--seed", 7, "--hires", "--hires-width", 64, "--hires-steps", 3)
    assert base64.b64decode(told["images"][0]) == wanted.data
    assert "Hires resize: 64x64" in json.loads(told["info"])["infotexts"][0]
    huge = client.post("/sdapi/v1/txt2img", json=body | {"enable_hr": True, "hr_resize_x": 4096})
    assert huge.status_code == 400
    assert "4096x4096: expected at most" in huge.json()["detail"]


def test_a_webui_clients_reference_pictures_and_format(client, served, tmp_path, monkeypatch):
    from PIL import Image

    pictures = tmp_path / "room.png", tmp_path / "lamp.png"
    for picture, color in zip(pictures, ("orange", "teal"), strict=True):
        Image.new("RGB", (64, 48), color).save(picture)
    came = []

    def judge(job, settings):
        came.extend((job.files / name).read_bytes() for name in job.asked["ref_image"])
        raise RequestError("that is all")

    body = {"prompt": PROMPT, "extra_images": [of_file(path) for path in pictures]}
    with monkeypatch.context() as patched:
        patched.setattr(served.server.judge, "judge", judge)
        assert "that is all" in client.post("/sdapi/v1/txt2img", json=body).text
    assert came == [path.read_bytes() for path in pictures]
    told = client.post("/sdapi/v1/txt2img", json=body)
    assert "schnell, which reads no reference picture" in told.text
    body = {"prompt": PROMPT, "output_format": "webp", "init_images": [of_file(pictures[0])]}
    told = client.post("/sdapi/v1/txt2img", json=body).json()
    assert base64.b64decode(told["images"][0])[:4] == b"RIFF"
    assert json.loads(told["info"])["ignored"] == ["init_images"]


def test_a_picture_to_edit_is_refused_where_nothing_is_edited(client):
    body = {"prompt": PROMPT, "image": "data:image/png;base64,AAAA"}
    told = client.post("/v1/images/generations", json=body)
    assert told.status_code == 400
    assert "image: is for /v1/images/edits" in told.text


def test_any_seed_is_chosen_once_also_of_a_form(client, served):
    form = {"prompt": (None, PROMPT), "seed": (None, "-1")}
    name = client.post("/v1/jobs", files=form).json()["id"]
    assert served.server.queue.get(name).asked["seed"] >= 0
    assert wait_for(client, name)["state"] == "done"


def test_the_servers_control_nets_wait_for_a_picture(client, draw, served, monkeypatch):
    drawer = served.server.judge
    flags = replace(drawer.flags, control_net=["none.safetensors"], control_strength=["0.5"])
    monkeypatch.setattr(drawer, "flags", flags)
    monkeypatch.setattr(drawer, "given", drawer.given | {"control_net", "control_strength"})
    assert drawn(client, seed=7) == draw("--seed", 7).data
    picture = base64.b64encode(draw("--seed", 7).data).decode()
    told = client.post("/v1/jobs", json={"prompt": PROMPT, "control_image": picture})
    assert "none.safetensors" in told.text
    told = client.post("/v1/jobs", json={"prompt": PROMPT, "control_strength": ["0.5"]})
    assert "control-strength needs '--control-net'" in told.text


@pytest.mark.parametrize(
    ("field", "words"),
    [("control_image", "control-net"), ("ref_image", "r.png: is not a readable")],
)
def test_pictures_beside_the_prompt_are_refused_by_one_sentence_on_every_route(
    field, words, client, served
):
    """control_image without a ControlNet, ref_image that is no picture."""
    files = {"r.png": base64.b64encode(b"no picture").decode()}
    told = set()
    for route in ("/v1/jobs", "/v1/images/generations", "/sdapi/v1/txt2img"):
        answer = client.post(route, json={"prompt": PROMPT, "files": files, field: ["r.png"]})
        assert answer.status_code == 400, answer.text
        told.add(answer.json()["detail"])
    [sentence] = told
    assert words in sentence
    assert str(served.server.settings.folder) not in sentence


# ---------------------------------------------------------------------------------- validations


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pulid_id_embedding": None}, "pulid_id_embedding: missing"),
        ({"reference": None}, "reference: missing; send a photograph"),
        ({"reference": "none.png"}, "reference: no file is called 'none.png'"),
        ({"seeds": 9}, "seeds '9': expected 1 to 4"),
        ({"seed": "many"}, "seed 'many': expected a whole number"),
        ({"seed": 1.5}, "seed '1.5': expected a whole number"),
        ({"output_format": "webp"}, "output_format: is not for a validation"),
        ({"pulid_id_weight": 0}, "0 is what it is compared with"),
        ({"prompts": "\n".join("abc" * 9)}, "prompts: 27 lines; expected 1 to 24"),
        ({"prompt": "a cat"}, "prompt: is not for a validation; give prompts"),
        ({"width": 100}, "expected a multiple of 16"),
        ({"minimum": 1}, "minimum: unknown field"),
    ],
)
def test_what_is_no_validation_is_one_sentence(fields, message, client, served):
    good = {"pulid_id_embedding": "me", "reference": "me.png", "prompts": "a cat"}
    files = {"me.png": base64.b64encode(b"a picture").decode()}
    asked = {name: value for name, value in (good | fields).items() if value is not None}
    told = client.post("/v1/validations", json={"files": files} | asked)
    assert told.status_code == 400
    assert message in told.json()["detail"]
    assert not list(served.server.settings.folder.glob("*/validation-*"))
    assert len(served.server.queue) == 0


def test_a_validation_whose_faces_cannot_be_compared_says_why(client, served, fake, monkeypatch):
    judge = served.server.judge
    monkeypatch.setattr(judge, "flags", replace(judge.flags, pulid_id_weight=0.6))
    fake("say('pulid-extract: error: me.png: no face found in this reference'); sys.exit(1)")
    files = {"me.png": base64.b64encode(b"a picture").decode()}
    asked = {"pulid_id_embedding": "me", "reference": ["me.png"], "prompts": "a cat", "steps": 1}
    asked["seed"] = -1
    told = client.post("/v1/validations", json={"files": files} | asked).json()
    assert (told["state"], told["count"]) == ("drawing", 2)
    address = f"/v1/validations/{told['id']}"
    until = time.monotonic() + 60
    while client.get(address).json()["state"] in ("drawing", "comparing"):
        assert time.monotonic() < until
        time.sleep(0.02)
    told = client.get(address).json()
    assert told["state"] == "failed"
    assert told["error"] == "pulid-extract score: me.png: no face found in this reference"
    assert client.get(f"{address}/report").status_code == 404
    validations = served.server.validations
    record = validations.get(told["id"])
    assert record.identity.weight == 0.6
    [seeds, others] = [run.seeds for run in record.runs]
    assert seeds == others
    # counted from its end, however long it took
    record.created -= 2 * FORGET_SECONDS
    validations.forget_old()
    assert validations.get(told["id"]) is record
    assert client.delete(address).json()["state"] == "deleted"
    assert client.get(address).status_code == 404
    assert not list(served.server.settings.folder.glob("*/validation-*"))


def test_a_validation_goes_on_after_a_restart(micro, tmp_path, kept, fake):
    fake("refuse_prompts()\nfor picture in pictures: likeness(0.5, picture=picture)")
    people = tmp_path / "people"
    people.mkdir()
    (people / "me.pulidembd").write_bytes(kept.me.read_bytes())
    flags = micro_serve_flags(micro, tmp_path, identities=str(people))
    files = {"me.png": base64.b64encode(b"a picture").decode()}
    asked = {"pulid_id_embedding": "me", "reference": "me.png", "prompts": "a cat\na dog"}
    with serving(flags) as running, running.client() as client:
        sent = {"files": files, "steps": 4} | asked
        name = client.post("/v1/validations", json=sent).json()["id"]
        record = running.server.validations.get(name)
        until = time.monotonic() + WAIT
        while record.drawn == 0:
            assert time.monotonic() < until
            time.sleep(0.01)
    assert not record.is_finished
    pictures = {path: path.stat().st_mtime_ns for path in record.folder.rglob("*.png")}
    with serving(flags) as running, running.client() as client:
        address = f"/v1/validations/{name}"
        until = time.monotonic() + WAIT
        while client.get(address).json()["state"] in ("drawing", "comparing"):
            assert time.monotonic() < until
            time.sleep(0.02)
        told = client.get(address).json()
        assert (told["state"], told["drawn"], told["count"]) == ("done", 4, 4)
        assert told["measures"]["mean_likeness"] == 0.5
        page = client.get(told["report"])
        assert page.status_code == 200
    # what was drawn is not drawn again
    for path, written in pictures.items():
        assert path.stat().st_mtime_ns == written
    # one that has ended is there as well, with its report
    with serving(flags) as running, running.client() as client:
        assert client.get(address).json() == told
        assert client.get(told["report"]).content == page.content
        assert not running.server.queue.resume(running.server.settings.folder)[0]
