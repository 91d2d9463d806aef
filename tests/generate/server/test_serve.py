"""A server of the micro models: its pictures are the command's, its jobs wait, end and are
cancelled, and its routes speak OpenAI's and WebUI's shapes.
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.micro_drawing import write_lora
from support.served import WAIT, micro_serve_flags, serving, wait_for

from pulid_generate.assembly.progress import Progress
from pulid_generate.errors import RequestError
from pulid_generate.server.settings import FORGET_SECONDS, read_settings

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

PROMPT = "a photo of a cat"


@pytest.fixture(scope="module")
def served(micro, tmp_path_factory, kept):
    folder = tmp_path_factory.mktemp("served")
    people = folder / "people"
    people.mkdir()
    for file in (kept.me, kept.you):
        (people / file.name).write_bytes(file.read_bytes())
    loras = folder / "loras"
    loras.mkdir()
    write_lora(loras / "style.safetensors")
    flags = micro_serve_flags(
        micro, folder, identities=str(people), lora_model_dir=str(loras), max_queue=6
    )
    with serving(flags) as running:
        yield running


@pytest.fixture
def client(served):
    with served.client() as client:
        yield client


def drawn(client, **fields) -> bytes:
    """The one picture of a job."""
    posted = client.post("/v1/jobs", json={"prompt": PROMPT} | fields)
    assert posted.status_code == 202, posted.text
    told = wait_for(client, posted.json()["id"])
    assert told["state"] == "done", told
    return client.get(told["pictures"][0]["url"]).content


def of_file(path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


# --------------------------------------------------------------------------------- the same picture


def test_a_job_is_the_commands_file(client, draw):
    assert drawn(client, seed=7) == draw("--seed", 7).data
    assert drawn(client, seed=7) != drawn(client, seed=8)


def test_an_identity_by_name_by_tag_and_in_the_request(client, draw, kept):
    wanted = draw(*kept.pulid, "--pulid-id-embedding", kept.me, "--pulid-id-weight", 0.8).data
    assert wanted != draw().data
    assert drawn(client, pulid_id_embedding="me", pulid_id_weight=0.8) == wanted
    assert drawn(client, prompt=f"{PROMPT} <id:me:0.8>") == wanted
    files = {"somebody.pulidembd": of_file(kept.me)}
    named = {"pulid_id_embedding": "somebody.pulidembd", "pulid-id-weight": 0.8}
    assert drawn(client, files=files, **named) == wanted
    inline = f"data:application/octet-stream;base64,{of_file(kept.me)}"
    assert drawn(client, pulid_id_embedding=inline, pulid_id_weight=0.8) == wanted


@pytest.mark.parametrize(
    ("route", "size"),
    [("/v1/jobs", {}), ("/v1/images/generations", {"size": "64x48"}), ("/sdapi/v1/txt2img", {})],
)
def test_which_face_of_the_portraits_is_drawn(route, size, client, served, kept, monkeypatch):
    asked = []

    def extract(task, fields):
        asked.append((task, fields))
        Path(fields["out"]).write_bytes(kept.me.read_bytes())
        return {}

    monkeypatch.setattr(served.server.worker, "ask", extract)
    files = {"group.png": base64.b64encode(b"a picture").decode()}
    fields = {"prompt": PROMPT, "portraits": ["group.png"], "files": files, "face_index": 1} | size
    assert client.post(route, json=fields | {"face_order": "left"}).status_code in (200, 202)
    [(task, sent)] = asked
    assert (task, sent["face_index"], sent["face_order"]) == ("extract", 1, "left")
    assert sent["names"] == ["group.png"]
    told = client.post(route, json={"prompt": PROMPT, "face_index": 1} | size)
    assert told.status_code == 400
    assert "face_index: is about portraits; send some" in told.text


def test_likeness_to_portraits_that_came_with_the_job(client, served, kept, monkeypatch):
    asked = []

    def answer(task, fields):
        asked.append((task, fields))
        if task == "score":
            return {"likeness": 0.5, "faces": 1, "recognizer": "ours"}
        Path(fields["out"]).write_bytes(kept.me.read_bytes())
        return {"vectors": [[1.0, 0.0]]} if fields.get("vectors") else {}

    monkeypatch.setattr(served.server.worker, "ask", answer)
    files = {"me.png": base64.b64encode(b"a picture").decode()}
    people = [
        {"portraits": ["me.png"]},
        {"identity": ["me.png,box=0,0,32,48", "you,box=32,0,32,48"]},
    ]
    for named, person in zip(people, ("portraits", "me.png"), strict=True):
        name = client.post("/v1/jobs", json={"prompt": PROMPT, "files": files} | named).json()["id"]
        picture = wait_for(client, name)["pictures"][0]
        told = client.get(f"{picture['url']}/likeness").json()["people"]
        assert (told[0]["name"], told[0]["likeness"]) == (person, 0.5)
        task, fields = asked[-1]
        assert (task, fields["vectors"]) == ("score", [[1.0, 0.0]])
        # the portrait itself is gone
        folder = served.server.queue.get(name).folder
        assert sorted(path.name for path in folder.iterdir()) == [
            *("0.png", "job.json", f"{person}.face"),
        ]
    assert told[1]["likeness"] is None


def test_two_people_with_boxes(client, draw, kept):
    boxes = ("box=0,0,32,48", "box=32,0,32,48")
    people = []
    for file, box in zip((kept.me, kept.you), boxes, strict=True):
        people += ["--identity", f"{file},{box}"]
    wanted = draw(*kept.pulid, *people).data
    assert drawn(client, identity=[f"me,{boxes[0]}", f"you,{boxes[1]}"]) == wanted


def test_a_picture_to_start_from_a_mask_and_a_lora(client, draw, served, tmp_path):
    from PIL import Image

    picture, mask = tmp_path / "start.png", tmp_path / "mask.png"
    Image.new("RGB", (64, 48), "orange").save(picture)
    Image.linear_gradient("L").resize((64, 48)).save(mask)
    wanted = draw("--init-img", picture, "--mask", mask, "--strength", 0.6).data
    fields = {"init_img": "a.png", "mask": "b.png", "strength": 0.6}
    files = {"a.png": of_file(picture), "b.png": of_file(mask)}
    assert drawn(client, files=files, **fields) == wanted
    form = client.post(
        "/v1/jobs",
        data={"prompt": PROMPT} | fields,
        files=[("files", ("a.png", picture.read_bytes())), ("files", ("b.png", mask.read_bytes()))],
    )
    told = wait_for(client, form.json()["id"])
    assert client.get(told["pictures"][0]["url"]).content == wanted
    body = {"prompt": PROMPT, "files": files, "seed": 42} | fields
    told = client.post("/v1/images/generations", json=body).json()
    assert base64.b64decode(told["data"][0]["b64_json"]) == wanted
    told = client.post("/sdapi/v1/txt2img", json=body).json()
    assert base64.b64decode(told["images"][0]) == wanted
    folder = served.server.judge.lora_folder
    with_lora = draw("--lora", f"{folder / 'style.safetensors'}:0.5").data
    assert drawn(client, lora=["style:0.5"]) == with_lora
    assert drawn(client, prompt=f"{PROMPT}<lora:style:0.5>") == with_lora


# --------------------------------------------------------------------------------------- the queue


def test_events_count_the_steps_and_end_with_the_job(client):
    name = client.post("/v1/jobs", json={"prompt": PROMPT, "steps": 5}).json()["id"]
    steps, states = [], []
    with client.stream("GET", f"/v1/jobs/{name}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("event:"):
                states.append(line.removeprefix("event: "))
            if line.startswith("data:"):
                steps.append(json.loads(line.removeprefix("data: "))["step"])
    assert states[-1] == "done"
    assert steps == sorted(steps)
    assert steps[-1] == 5


def test_cancel_ends_before_the_next_step_and_what_waits_at_once(client, served):
    first = client.post("/v1/jobs", json={"prompt": PROMPT, "steps": 100}).json()["id"]
    second = client.post("/v1/jobs", json={"prompt": PROMPT}).json()
    assert second["place"] in (0, 1)
    assert client.delete(f"/v1/jobs/{second['id']}").json()["state"] == "cancelled"
    job = served.server.queue.get(first)
    while job.step[0] < 3:
        time.sleep(0.005)
    at = job.step[0]
    client.delete(f"/v1/jobs/{first}")
    told = wait_for(client, first)
    assert told["state"] == "cancelled"
    assert told["pictures"] == []
    assert told["step"] <= at + 2
    # and the next one is whole
    assert drawn(client, seed=7)


def test_a_full_queue_is_429_and_says_when(client, served):
    names = []
    try:
        for _ in range(8):
            posted = client.post("/v1/jobs", json={"prompt": PROMPT, "steps": 100})
            if posted.status_code == 429:
                break
            names.append(posted.json()["id"])
        assert posted.status_code == 429
        assert int(posted.headers["retry-after"]) > 0
        assert "--max-queue" in posted.json()["error"]["message"]
        assert client.get("/ready").status_code == 503
    finally:
        for name in names:
            client.delete(f"/v1/jobs/{name}")
    assert client.get("/ready").status_code == 200


def test_many_clients_lose_nothing_and_memory_stays(tmp_path):
    """As `python -m bench load` does it, with fewer requests."""
    from bench.load import under_load

    found = under_load(tmp_path, 36, 12)
    assert found.problems == []
    assert found.lost == 0
    assert len(set(found.pictures.values())) == 36
    # there was no room for all of them at once
    assert found.sent_away > 0
    # a picture kept of each request would be nothing beside the models, a job's models more
    assert found.resident_after(1.0) - found.resident_after(0.5) < 50


def test_the_picture_in_work_is_finished_and_what_waits_is_drawn_after_a_restart(micro, tmp_path):
    flags = micro_serve_flags(micro, tmp_path)
    with serving(flags) as running, running.client() as client:
        names = []
        for seed in (1, 2):
            body = {"prompt": PROMPT, "seed": seed, "steps": 12}
            names.append(client.post("/v1/jobs", json=body).json()["id"])
        first = running.server.queue.get(names[0])
        while first.state == "queued":
            time.sleep(0.005)
    assert first.state == "done"
    left = sorted(path.name for path in (tmp_path / "studio").rglob("*") if path.is_file())
    assert left == ["0.png", "job.json", "job.json"]
    with serving(flags) as running, running.client() as client:
        told = wait_for(client, names[1])
        assert (told["state"], told["pictures"][0]["seed"]) == ("done", 2)


def test_a_server_that_was_killed_goes_on_and_leaves_nothing_half_written(micro, tmp_path):
    """Killed while it draws the first of two jobs: both are drawn by the next one."""
    import signal
    import subprocess
    import sys

    import httpx
    from support.paths import ROOT

    flags = micro_serve_flags(micro, tmp_path)
    command = [sys.executable, "-m", "pulid_generate", "serve", "--port", "0", "--device", "cpu"]
    for name in ("diffusion_model", "vae", "t5xxl", "t5_tokenizer", "pulid_weights", "output_dir"):
        command += [f"--{name.replace('_', '-')}", getattr(flags, name)]
    command += ["--clip_l", flags.clip_l, "-W", "64", "-H", "48", "--quiet"]
    names = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        address = child.stdout.readline().strip()
        with httpx.Client(base_url=address, timeout=60) as client:
            for seed in (1, 2):
                body = {"prompt": PROMPT, "seed": seed, "steps": 16}
                names.append(client.post("/v1/jobs", json=body).json()["id"])
            while client.get(f"/v1/jobs/{names[0]}").json()["step"] < 2:
                time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
    folder = tmp_path / "studio"
    assert not list(folder.rglob("*.png"))
    with serving(flags) as running, running.client() as client:
        for name in names:
            assert wait_for(client, name)["state"] == "done"
    assert not list(folder.rglob("*.part"))
    assert len(list(folder.rglob("*.png"))) == 2


def test_the_containers_command_line_is_one():
    from support.paths import ROOT

    from docs import cli_reference

    known = cli_reference.flags("pulid-generate")["pulid-generate serve"]
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    steps = [line.partition(" ") for line in text.splitlines() if line and line[0] not in "# "]
    assert steps[0][0] == "FROM"
    words = []
    for name, _, rest in steps:
        if name in ("ENTRYPOINT", "CMD"):
            words += json.loads(rest)
    assert words[:2] == ["pulid-generate", "serve"]
    assert {word for word in words if word.startswith("--")} <= known


def test_make_studios_command_line_is_one(tmp_path):
    from micro_world.studio import command

    from docs import cli_reference

    known = cli_reference.flags("pulid-generate")["pulid-generate serve"]
    (tmp_path / "identities").mkdir()
    words = command(tmp_path, ["--no-studio"])
    flags = [word for word in words if word.startswith("-") and " " not in word]
    assert {"--identities", "--extract-flags"} <= {*flags}
    assert {*flags} - {"-m"} <= known


def test_models_go_when_nothing_is_asked_for_and_come_back(micro, tmp_path):
    flags = micro_serve_flags(micro, tmp_path, idle_minutes=0.5 / 60)
    with serving(flags) as running, running.client() as client:
        first = drawn(client)
        until = time.monotonic() + 20
        while running.server.devices.loaded and time.monotonic() < until:
            time.sleep(0.05)
        assert not running.server.devices.loaded
        assert drawn(client) == first


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


def test_nobody_sees_a_preview_of_somebody_elses_picture(micro, tmp_path):
    from pulid_generate.server.http.running import open_server

    flags = micro_serve_flags(micro, tmp_path, preview="proj", preview_path=str(tmp_path / "p.png"))
    server = open_server(flags, frozenset(), read_settings(flags), Progress(quiet=True))
    assert server.judge.pipeline.preview is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--preview-interval", "5"), "--preview-interval is not for serve"),
        (("--ref-image", "-"), "Standard input can be read once, not for every picture"),
    ],
)
def test_flags_that_a_server_cannot_have(flags, message, generate):
    told = generate("serve", *flags)
    assert told.code == 2
    assert message in told.err


def test_fields_of_a_job_are_the_flags(client):
    from dataclasses import fields

    from pulid_generate.flags.detail import DetailFlags
    from pulid_generate.flags.drawing import DrawingFlags
    from pulid_generate.flags.hires import HiresFlags
    from pulid_generate.flags.identity import IdentityFlags

    told = client.get("/v1/capabilities").json()["fields"]
    tables = (DrawingFlags, IdentityFlags, DetailFlags, HiresFlags)
    wanted = {item.name for table in tables for item in fields(table)}
    assert wanted - told.keys() == {
        "prompt_file",
        "negative_prompt_file",
        "hires_upscalers_dir",
    }
    assert told["width"]["default"] == 512
    schema = client.get("/openapi.json").json()["paths"]["/v1/jobs"]["post"]["requestBody"]
    assert schema["content"]["application/json"]["schema"]["properties"].keys() == told.keys()


def test_metrics_count_pictures_and_nothing_of_them(client):
    before = client.get("/metrics").text
    drawn(client, prompt="a secret prompt")
    after = client.get("/metrics").text
    assert "secret" not in after

    def count(text: str) -> float:
        lines = [line for line in text.splitlines() if line.startswith("pulid_pictures_total")]
        return float(lines[0].split()[1])

    assert count(after) == count(before) + 1


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
