"""What the studio asks of the server beside jobs: the fields of a request from a picture's
metadata, and what is meant on each of several portraits.
"""

from __future__ import annotations

import base64
import hashlib
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
from pulid_generate.server.intake.compared import _of_file
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


@pytest.mark.parametrize(
    "people",
    [
        ["me,weight=0.5,box=0,0,32,48", "me,box=30,0,34,48,start=1"],
        ["me,box=32,0,32,48,end=1"],
    ],
)
def test_boxes_of_people_come_back(people, client):
    first = drawn(client, prompt=PROMPT, identity=people)
    told = restored(client, first)
    assert told["missing"] == []
    assert len(told["fields"]["identity"]) == len(people)
    assert all("box=" in text for text in told["fields"]["identity"])
    assert drawn(client, **told["fields"]) == first


def test_a_persons_mask_does_not_come_back(client):
    masks = {"identity": ["me,mask=a.png"], "files": {"a.png": coded(png("white"))}}
    told = restored(client, drawn(client, prompt=PROMPT, **masks))
    assert told["missing"] == ["where me was is not in it, but for a mask's hash: place it again"]


def test_files_are_compared_by_their_hashes(client, served):
    first = drawn(client, prompt=PROMPT, lora=["style:0.5"])
    facts = parse_description(read_parameters(first))
    assert restored(client, first)["missing"] == []
    [lora] = facts["loras"]
    other = facts | {"loras": [lora | {"sha256": "ab" * 32}]}
    [told] = restored(client, with_facts(other))["missing"]
    assert told.startswith("its LoRA was style (SHA-256 abababababab..), here it is style (")
    tiny = {"name": "tiny", "sha256": "cd" * 32}
    hires = {"upscaler": "x4.pth", "upscaler_sha256": "ef" * 32, "upscaler_tile": 64}
    hires |= {"width": 128, "height": 96, "sigmas": [0.5, 0.0]}
    control = {"name": "canny.safetensors", "sha256": "01" * 32}
    more = {"tae": tiny, "hires": hires, "controls": [control]}
    empty = hashlib.sha256(b"").hexdigest()[:12]
    assert restored(client, with_facts(facts | more))["missing"] == [
        "the pictures of its ControlNets are not in it: choose them again",
        "this server lacks its tiny autoencoder, tiny (SHA-256 cdcdcdcdcdcd..)",
        "what enlarged it between two passes is not here: x4.pth (SHA-256 efefefefefef..); "
        f"x4.pth (SHA-256 {empty}..) is another file",
        "this server was started without its ControlNet, canny.safetensors (SHA-256 "
        "010101010101..)",
    ]


def test_settings_of_one_file_are_told_apart():
    own = {"model": "x4.pth", "sha256": "ab", "scale": 4, "tile": 512}
    for told, words in (
        (own | {"model": "renamed.pth"}, []),
        (own | {"tile": 128}, ["its enlarger had another tile: 128, here 512"]),
        (None, ["it was drawn without the enlarger of this server, x4.pth (SHA-256 ab..)"]),
        (
            own | {"sha256": "cd"},
            ["its enlarger was x4.pth (SHA-256 cd..), and this server has x4.pth (SHA-256 ab..)"],
        ),
    ):
        assert _of_file("enlarger", told, own) == words


def test_the_servers_models_that_enlarge_can_be_chosen(client):
    choices = client.get("/v1/capabilities").json()["choices"]["hires_upscaler"]
    assert (choices[0], choices[-1]) == ("Latent", "x4.pth")
    listed = client.get("/sdapi/v1/upscalers").json()
    assert [one["name"] for one in listed] == choices


def test_what_another_server_has_is_said(client):
    facts = parse_description(read_parameters(drawn(client, prompt=PROMPT)))
    facts["models"]["flux"] = "flux1-dev.safetensors"
    facts["upscale"] = {"model": "x4.pth", "sha256": "ab"}
    told = restored(client, with_facts(facts))["missing"]
    assert told[0].startswith("it was drawn by flux1-dev.safetensors, and this server has flux1-")
    lacks = "this server lacks its model that enlarges pictures, x4.pth (SHA-256 ab..)"
    assert told[1:] == [lacks]


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
