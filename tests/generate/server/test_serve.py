"""A server of the micro models: its pictures are the command's, its jobs wait, end and are
cancelled, and its own flags are refused where they cannot be.
"""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.served import PROMPT, drawn, micro_serve_flags, of_file, serving, wait_for

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

from prometheus_client import Counter

from pulid_generate.assembly.progress import Progress
from pulid_generate.server.settings import read_settings
from pulid_generate.server.work import device
from pulid_generate.server.work.jobs import JobRecord

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


def test_steps_that_come_too_fast_to_be_seen_are_told_together(tmp_path, monkeypatch):
    now = [10.0]
    monkeypatch.setattr(device.time, "monotonic", lambda: now[0])
    record = JobRecord("name", tmp_path, None, {})
    watch = device._JobWatch(record, SimpleNamespace(steps=Counter("steps", "", registry=None)))
    told = []
    for done in range(1, 8):
        now[0] += 0.04
        before = record.changes.count
        watch.step(done, 7)
        assert record.step == (done, 7)
        told.append(record.changes.count > before)
    # each tenth of a second, and the last one
    assert told == [False, False, True, False, False, True, True]


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

    from pulid_generate.flags.generation.detail import DetailFlags
    from pulid_generate.flags.generation.drawing import DrawingFlags
    from pulid_generate.flags.generation.hires import HiresFlags
    from pulid_generate.flags.generation.identity import IdentityFlags

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
