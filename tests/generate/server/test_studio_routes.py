"""What the studio asks of the server beside jobs: the fields of a request from a picture's
metadata, and what is meant on each of several portraits.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support.pictures.micro_drawing import write_lora
from support.served import PROMPT, drawn, micro_serve_flags, serving

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

from pulid_generate.pictures.description import parse_description
from pulid_generate.pictures.picture import read_parameters
from pulid_generate.server.intake.restoring import _take_hires


@pytest.fixture(scope="module")
def served(micro, tmp_path_factory, kept):
    folder = tmp_path_factory.mktemp("routes")
    people, loras = folder / "people", folder / "loras"
    people.mkdir()
    loras.mkdir()
    (people / "me.pulidembd").write_bytes(kept.me.read_bytes())
    write_lora(loras / "style.safetensors")
    (folder / "x4.pth").touch()
    flags = micro_serve_flags(
        micro,
        folder,
        identities=str(people),
        lora_model_dir=str(loras),
        hires_upscalers_dir=str(folder),
    )
    with serving(flags) as running:
        yield running


@pytest.fixture
def client(served):
    with served.client() as client:
        yield client


def png(colour: str, size: tuple[int, int] = (64, 48)) -> bytes:
    stored = io.BytesIO()
    Image.new("RGB", size, colour).save(stored, "PNG")
    return stored.getvalue()


def with_facts(facts: dict) -> bytes:
    """A picture with this metadata."""
    info, stored = PngInfo(), io.BytesIO()
    info.add_text("parameters", f"a cat\n{json.dumps(facts)}")
    Image.new("RGB", (16, 16)).save(stored, "PNG", pnginfo=info)
    return stored.getvalue()


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def restored(client, picture: bytes) -> dict:
    told = client.post("/v1/parameters", json={"image": coded(picture)})
    assert told.status_code == 200, told.text
    return told.json()


WAYS = {
    "as usual": {"seed": 7},
    "a person, and another sampler": {
        "pulid_id_embedding": "me",
        "pulid_id_weight": 0.8,
        "id_start_step": "1",
        "id_weight_single": 0.5,
        "sampling_method": "heun",
        "scheduler": "karras",
        "steps": 3,
        "rng": "cpu",
    },
    "true CFG, skipped layers, a LoRA": {
        "cfg_scale": 2.0,
        "cfg_start_step": 1,
        "negative_prompt": "rain",
        "slg_scale": 1.5,
        "skip_layers": "3,4",
        "skip_layer_end": 0.9,
        "steps": 4,
        "lora": ["style:0.5"],
    },
    "a second pass, in tiles": {
        "hires": True,
        "hires_scale": 1.5,
        "hires_steps": 3,
        "hires_denoising_strength": 0.5,
        "vae_tiling": True,
        "flow_shift": "0.7",
    },
    "times by hand": {"sigmas": "1,0.6,0.2,0", "steps": 3},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_pictures_metadata_draws_it_again(way, client):
    first = drawn(client, prompt=PROMPT, **WAYS[way])
    told = restored(client, first)
    assert told["missing"] == []
    assert drawn(client, **told["fields"]) == first
    # what is as usual here is not said
    assert "guidance" not in told["fields"]
    assert set(told["fields"]) <= {"prompt", "width", "height", "steps", "seed", *WAYS[way]} | {
        *("id_start_step", "hires_width", "hires_height", "hires_upscaler", "skip_layer_start"),
        *("scheduler", "t5_max_length", "negative_id"),
    }


def test_what_metadata_does_not_hold_is_said(client, served, kept):
    start = {"init_img": "a.png", "files": {"a.png": coded(png("orange"))}}
    first = drawn(client, prompt=PROMPT, strength=0.6, steps=4, **start)
    told = restored(client, first)
    assert "started from is not in it" in " ".join(told["missing"])
    assert (told["fields"]["steps"], told["fields"]["strength"]) == (4, pytest.approx(0.6, abs=0.2))
    assert drawn(client, **told["fields"], **start) == first
    files = {"you.pulidembd": coded(kept.you.read_bytes())}
    other = drawn(client, prompt=PROMPT, pulid_id_embedding="you.pulidembd", files=files)
    told = restored(client, other)
    assert "pulid_id_embedding" not in told["fields"]
    assert "add the .pulidembd" in " ".join(told["missing"])
    boxes = ["me,weight=0.5,box=0,0,32,48", "me,box=32,0,32,48"]
    told = restored(client, drawn(client, prompt=PROMPT, identity=boxes))
    assert [text.split(",")[:2] for text in told["fields"]["identity"]] == [
        ["me", "weight=0.5"],
        ["me", "weight=1.0"],
    ]
    assert "drag their boxes again" in " ".join(told["missing"])


def test_the_servers_models_that_enlarge_can_be_chosen(client):
    choices = client.get("/v1/capabilities").json()["choices"]["hires_upscaler"]
    assert (choices[0], choices[-1]) == ("Latent", "x4.pth")
    listed = client.get("/sdapi/v1/upscalers").json()
    assert [one["name"] for one in listed] == choices


def test_what_another_server_has_is_said(client):
    facts = parse_description(read_parameters(drawn(client, prompt=PROMPT)))
    facts["models"]["flux"] = "flux1-dev.safetensors"
    facts["upscale"] = {"model": "x4.pth"}
    told = restored(client, with_facts(facts))["missing"]
    assert told[0].startswith("it was drawn by flux1-dev.safetensors, and this server has flux1-")
    assert told[1:] == ["finished pictures are enlarged otherwise here"]


def test_tiles_of_a_model_that_enlarged_it_come_back():
    told = {"width": 128, "height": 96, "upscaler": "tiny.pth", "upscaler_tile": 64}
    fields = {}
    _take_hires({"hires": told | {"sigmas": [0.5, 0.0]}}, fields, None)
    assert fields["hires_upscale_tile_size"] == 64


def test_metadata_that_was_altered_is_refused(client):
    whole = {"t5_tokens": [256], "prompt": "", "width": 64, "height": 48, "seed": 1, "sigmas": [1]}
    for altered in (
        {},
        {"t5_tokens": [], "sigmas": 3},
        whole | {"steps": 0, "init_image": {}},
        whole | {"steps": 10**9, "init_image": {}},
        whole | {"steps": 2, "hires": {"steps": 10**9}},
        whole | {"steps": 2, "skip_layers": {"scale": 1, "layers": [1], "steps": []}},
    ):
        facts = altered | {"pulid_generate": "1"}
        told = client.post("/v1/parameters", json={"image": coded(with_facts(facts))})
        assert told.status_code == 400, facts
        assert "was altered" in told.json()["detail"]


def test_what_is_meant_on_each_portrait(served, client, kept, monkeypatch):
    asked = []

    def extract(task, fields):
        asked.append(fields)
        masked = fields["each"][fields["portrait"][1]]["mask"]
        assert Path(masked).read_bytes() == png("white")
        Path(fields["out"]).write_bytes(kept.me.read_bytes())
        return {}

    monkeypatch.setattr(served.server.worker, "ask", extract)
    names = ("a.png", "b.png", "c.png", "m.png")
    files = {name: coded(png("red" if name != "m.png" else "white")) for name in names}
    second = {"file": "b.png", "face_index": 1, "mask": "m.png"}
    entries = ["a.png", second, json.dumps({"file": "c.png", "face_box": "1,2,3,4"})]
    told = client.post("/v1/identities", json={"portraits": entries, "files": files})
    assert told.status_code == 200, told.text
    [fields] = asked
    assert fields["names"] == ["a.png", "b.png", "c.png"]
    each = {Path(path).name: own for path, own in fields["each"].items()}
    assert each["b.png"]["face_index"] == 1
    assert each["c.png"] == {"face_box": "1,2,3,4"}
    assert "a.png" not in each
    for wrong in (
        [],
        [3],
        ["{"],
        [{"face_index": 1}],
        [{"file": "../a.png"}],
        [second | {"mask": "/etc/hosts"}],
    ):
        refused = client.post("/v1/identities", json={"portraits": wrong, "files": files})
        assert refused.status_code == 400, wrong
