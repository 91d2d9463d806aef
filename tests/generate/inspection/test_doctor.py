"""`pulid-generate doctor`: each role by its flag, --model, the models folder; T5's vocabulary; what
fetches the rest.
"""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from seeded import public_layouts
from support.models.control_files import write_control, write_tae
from support.models.hollow_files import DEV, hollow, stored
from support.models.lora_files import RANK, plain_lora, write
from support.models.upscaler_files import write_upscaler
from support.paths import ROOT

from pulid_extract.shared.model_files import read_header
from pulid_generate.memory.footprint import cacheable_bytes
from pulid_generate.models.flux import flux_shape
from pulid_generate.pictures.face_finder import PROCESS_BYTES
from pulid_generate.pipeline.loading import Models

needs_spandrel = pytest.mark.skipif(
    find_spec("spandrel") is None, reason="the extra [upscale] is not installed"
)


def report(run) -> dict[str, dict]:
    return {check["name"]: check for check in json.loads(run.out)["checks"]}


def test_a_complete_folder_is_ready(micro, generate):
    run = generate(
        "doctor",
        "--models-dir",
        micro,
        "--diffusion-model",
        micro / "flux1-schnell.safetensors",
        "--json",
    )
    assert run.code == 0, run.err
    assert json.loads(run.out)["ready"] is True
    told = report(run)
    assert told["Flux transformer"]["text"].startswith(
        f"{micro / 'flux1-schnell.safetensors'} (flag, "
    )
    assert told["autoencoder"]["text"].startswith(f"{micro / 'ae.safetensors'} (models folder, ")
    assert told["T5 tokenizer"]["text"] == str(micro / "tokenizer.json")


@pytest.mark.parametrize(
    ("lacking", "kit"),
    [
        (["flux1-schnell.safetensors"], "schnell-q4"),
        (
            ["flux1-schnell.safetensors", "ae.safetensors", "pulid_flux_v0.9.1.safetensors"],
            "schnell-q4",
        ),
        (["pulid_flux_v0.9.1.safetensors"], "pulid"),
        (["ae.safetensors"], "encoders"),
        (["t5xxl_fp16.safetensors", "pulid_flux_v0.9.1.safetensors"], "encoders"),
        (["tokenizer.json"], "encoders"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_fetches_it(
    micro, generate, tmp_path, lacking, kit
):
    for file in micro.iterdir():
        if file.is_file() and file.name not in lacking:
            (tmp_path / file.name).symlink_to(file)
    run = generate("doctor", "--models-dir", tmp_path, "--json")
    missing = [check for check in report(run).values() if check["status"] == "missing"]
    assert len(missing) == len(lacking)
    assert {check["remedy"] for check in missing} == {
        f"run: pulid-generate pull {kit} --models-dir {tmp_path}"
    }
    assert run.error.endswith(f"run: pulid-generate pull {kit} --models-dir {tmp_path}")


def test_what_is_wrong_is_not_answered_with_a_download(micro, generate, tmp_path):
    run = generate("doctor", "--models-dir", micro, "--vae", micro / "clip_l.safetensors", "--json")
    told = report(run)
    assert "is a CLIP-L text encoder, --vae wants a Flux autoencoder" in told["autoencoder"]["text"]
    assert told["autoencoder"]["remedy"] is None
    assert told["Flux transformer"]["status"] == "wrong"  # dev and schnell are both in the folder
    assert "2 files can be the Flux transformer" in told["Flux transformer"]["text"]
    assert told["Flux transformer"]["remedy"] is None
    assert "the report says why" in run.error


def test_a_device_that_is_not_there(micro, generate):
    run = generate(
        "doctor",
        "--models-dir",
        micro,
        "--diffusion-model",
        micro / "flux1-schnell.safetensors",
        "--device",
        "mps",
    )
    assert "not ready: device mps" in run.error


# -------------------------------------------------------------------------------------- memory plan


@pytest.fixture
def real(micro, tmp_path, monkeypatch):
    """Flux dev, T5 and PuLID in the public files' sizes, which take no room on the disk; 8 GiB of
    main memory.
    """
    hollow(tmp_path / "flux1-dev.safetensors", stored(DEV, "BF16"))
    hollow(tmp_path / "t5.safetensors", stored(public_layouts.t5(4096, 24), "F16"))
    hollow(tmp_path / "clip.safetensors", stored(public_layouts.clip_l(), "F16"))
    hollow(tmp_path / "ae.safetensors", stored(public_layouts.autoencoder(), "F32"))
    hollow(
        tmp_path / "pulid.safetensors",
        stored({**public_layouts.pulid_ca(3072, 20), **public_layouts.pulid_encoder()}, "BF16"),
    )
    (tmp_path / "tokenizer.json").symlink_to(micro / "tokenizer.json")
    monkeypatch.setattr("pulid_generate.memory.devices.available_memory", lambda: 8 * 2**30)
    return tmp_path


def test_what_cannot_fit_is_said_before_anything_loads(real, generate, monkeypatch):
    run = generate("doctor", "--models-dir", real, "--device", "cpu", "--json")
    told = json.loads(run.out)
    assert told["plan"]["verdict"] == "cannot fit"
    assert "not ready: 512x512: cannot fit: T5: needs" in run.error
    assert "--t5xxl with a Q4 GGUF" in run.error
    monkeypatch.setattr("pulid_generate.memory.devices.available_memory", lambda: 200 * 2**30)
    run = generate("doctor", "--models-dir", real, "--device", "cpu")
    assert run.code == 0, run.err
    assert b"512x512: fits" in run.out
    assert b"autoencoder  cpu" in run.out


def test_flags_that_a_generation_would_refuse(micro, generate):
    flux = ["--models-dir", micro, "--diffusion-model", micro / "flux1-schnell.safetensors"]
    assert (
        "not ready: flags: width 1025: expected a multiple of 16"
        in generate("doctor", *flux, "-W", 1025).error
    )
    assert (
        "vae-tile-size" in generate("doctor", *flux, "--vae-tiling", "--vae-tile-size", "axb").error
    )


def test_the_size_and_the_people_count(micro, person, generate):
    flux = [
        "--models-dir",
        micro,
        "--diffusion-model",
        micro / "flux1-schnell.safetensors",
        "--json",
    ]

    def peak(*more):
        run = generate("doctor", *flux, *more)
        assert run.code == 0, run.err
        return {
            stage["name"]: stage["needs"]["cpu"] for stage in json.loads(run.out)["plan"]["stages"]
        }

    base = peak()
    assert peak("-W", 1024, "-H", 1024)["autoencoder"] > base["autoencoder"]
    assert (
        peak("-W", 1024, "-H", 1024, "--vae-tiling")["autoencoder"]
        < peak("-W", 1024, "-H", 1024)["autoencoder"]
    )
    assert peak("--pulid-id-embedding", person) == base  # one person is what is assumed
    assert peak("--pulid-id-embedding", person, "--identity", person)["Flux"] > base["Flux"]


def test_a_weight_cache_is_no_larger_than_what_it_can_hold(generate):
    """--weight-cache 24 with a Flux of 13 MB, in the plan and in what draws."""
    world = ROOT / "scripts/micro_world/models"

    def needs(*more):
        dtype = ("--dtype", "float32", "--device", "cpu")
        run = generate("doctor", "--models-dir", world, *dtype, *more, "--json")
        assert run.code == 0, run.err
        stages = json.loads(run.out)["plan"]["stages"]
        return {stage["name"]: stage["needs"]["cpu"] for stage in stages}["Flux"]

    header = read_header(world / "flux1-schnell-Q8_0.gguf")
    widened = cacheable_bytes(header, "cpu", 4, dequantize=False)
    packed = math.prod(header.tensors["double_blocks.0.img_attn.qkv.weight"][1])
    assert 4 * packed < widened < 64 << 20
    # with the plan's margin
    margin = (needs("--weight-cache", 1 / 1024) - needs()) / (1 << 20)
    assert 1 <= margin < 1.2
    assert needs("--weight-cache", 24) - needs() == pytest.approx(margin * widened)
    # nothing stays packed
    assert needs("--weight-cache", 24, "--dequantize") == needs("--dequantize")
    files = SimpleNamespace(flux=SimpleNamespace(header=header))
    for device, asked, kept in (("cpu", 24 << 30, widened), ("cpu", 7, 7), ("meta", 7, 0)):
        placement = SimpleNamespace(device=torch.device(device), dtype=torch.float32)
        assert Models(files, placement, weight_cache=asked).weight_cache == kept


def test_what_lies_beside_the_models_is_looked_at_and_counted(
    micro, generate, tmp_path, monkeypatch
):
    monkeypatch.setattr("pulid_generate.memory.devices.available_memory", lambda: 8 * 2**30)
    sizes = flux_shape(read_header(micro / "flux1-schnell.safetensors"))
    shape = {"width": sizes.width, "context": sizes.context, "pooled": sizes.pooled}
    control = write_control(tmp_path / "union.safetensors", modes=5, **shape)
    tae = write_tae(tmp_path / "taef1.safetensors")
    for name in ("flux1-schnell", "clip_l", "t5xxl_fp16", "pulid_flux_v0.9.1"):
        (tmp_path / f"{name}.safetensors").symlink_to(micro / f"{name}.safetensors")
    (tmp_path / "tokenizer.json").symlink_to(micro / "tokenizer.json")
    folder = ("doctor", "--models-dir", tmp_path, "--json")
    flux = ("--diffusion-model", tmp_path / "flux1-schnell.safetensors", "--tae", tae)

    def needs(*flags):
        run = generate(*folder, *flux, *flags)
        assert run.code == 0, run.err
        stages = json.loads(run.out)["plan"]["stages"]
        return {stage["name"]: stage["needs"]["cpu"] for stage in stages}, report(run)

    # no other autoencoder is there, and none is needed
    plain, told = needs()
    assert told["tiny autoencoder"]["status"] == "ok"
    beside, told = needs("--control-net", control, "--control-image", "p.png", "--control-mode", 2)
    assert told["ControlNet"]["text"].startswith(f"{control} (flag, ")
    weights = 4 * sum(tensor.numel() for tensor in load_file(control).values())
    assert beside["Flux"] - plain["Flux"] >= weights
    refused = generate(*folder, *flux, "--control-net", control, "--control-image", "p.png")
    assert "ControlNet" in report(refused)
    assert "is a union; give --control-mode canny" in refused.error
    # for previews alone, the autoencoder is missed
    refused = generate(*folder, *flux, "--taesd-preview-only")
    assert report(refused)["autoencoder"]["status"] == "missing"
    wrong = ("--diffusion-model", tmp_path / "flux1-schnell.safetensors", "--tae", control)
    assert report(generate(*folder, *wrong))["tiny autoencoder"]["status"] == "wrong"
    (tmp_path / "4x.pth").write_bytes(b"no model")
    refused = generate(*folder, *flux, "--upscale-model", tmp_path / "4x.pth")
    assert "4x.pth: holds no tensors alone" in report(refused)["upscaler"]["text"]


@needs_spandrel
def test_every_file_that_changes_a_picture_is_looked_at(
    micro, generate, fake, tmp_path, monkeypatch
):
    monkeypatch.setattr("pulid_generate.memory.devices.available_memory", lambda: 8 * 2**30)
    width = flux_shape(read_header(micro / "flux1-schnell.safetensors")).width
    for name, wide in (("mine", width), ("other", width + 128)):
        write(tmp_path / f"{name}.safetensors", plain_lora(size=(wide, wide)))
    write_upscaler(tmp_path / "2x.safetensors")
    flux = ("--models-dir", micro, "--diffusion-model", micro / "flux1-schnell.safetensors")
    floats = ("--dtype", "float32", "--device", "cpu")

    def looked(*flags):
        return generate("doctor", *flux, *floats, "--json", *flags)

    def available(run):
        assert run.code == 0, run.err
        return json.loads(run.out)["plan"]["available"]["cpu"]

    def needs(run):
        assert run.code == 0, run.err
        stages = json.loads(run.out)["plan"]["stages"]
        return {stage["name"]: stage["needs"]["cpu"] for stage in stages}["Flux"]

    plain = looked()
    # of a flag, and of the prompt
    for flags in (
        ("--lora", f"{tmp_path / 'mine.safetensors'}:0.5"),
        ("--lora-model-dir", tmp_path, "-p", "a cat <lora:mine:0.5>"),
    ):
        run = looked(*flags)
        assert report(run)["LoRA"]["text"].startswith(f"{tmp_path / 'mine.safetensors'} (flag, ")
        assert needs(run) - needs(plain) >= 4 * 2 * RANK * width
    refused = looked("--lora", tmp_path / "other.safetensors")
    assert "made for another model" in refused.error
    refused = looked("--lora-model-dir", tmp_path, "-p", "a cat <lora:gone:1>")
    assert "gone.safetensors is not there" in refused.error
    # the prompt's own file, before any LoRA that it may name
    refused = looked("--prompt-file", tmp_path / "gone.txt")
    assert report(refused)["prompt"]["status"] == "wrong"
    assert "LoRA" not in report(refused)
    # between the two passes
    hires = ("--hires", "--hires-upscalers-dir", tmp_path, "--hires-upscaler")
    run = looked(*hires, "2x")
    assert report(run)["upscaler of --hires"]["text"].endswith(", 2 times as large")
    assert available(plain) - available(run) > 1 << 20
    (tmp_path / "4x.pth").write_bytes(b"no model")
    assert "4x.pth: holds no tensors alone" in looked(*hires, "4x").error
    assert "hires-upscaler 8x: not found in" in looked(*hires, "8x").error
    # who finds faces
    fake("for line in sys.stdin: print(json.dumps({'status': 'done', 'faces': []}), flush=True)")
    run = looked("--ad-model", "antelopev2")
    assert report(run)["faces of --ad-model"]["status"] == "ok"
    assert available(plain) - available(run) == PROCESS_BYTES
    fake("print('error: antelopev2: none is here', file=sys.stderr)")
    assert (
        "not ready: faces of --ad-model: pulid-extract worker: "
        in looked("--ad-model", "antelopev2").error
    )


def test_all_that_is_missing_is_one_message_with_one_command(generate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    said = generate("-p", "x", "--models-dir", "models").error
    assert "4 model files are missing in models: Flux transformer (--diffusion-model), " in said
    assert said.endswith(
        "run: pulid-generate pull schnell-q4 --models-dir models; or name each with its flag"
    )
    for name in ("a", "b"):
        copied = "flux1-schnell-Q8_0.gguf"
        (tmp_path / "models" / f"{name}.gguf").write_bytes(
            (ROOT / "scripts/micro_world/models" / copied).read_bytes()
        )
    (tmp_path / "models" / "b.gguf").write_bytes(
        (tmp_path / "models" / "b.gguf").read_bytes() + b" "
    )
    said = generate("-p", "x", "--models-dir", "models").error
    assert "2 files can be the Flux transformer: models/a.gguf, models/b.gguf" in said
    assert said.endswith(
        "choose one with --diffusion-model, or for good with a line of pulid.toml under [models]: "
        'diffusion-model = "models/a.gguf"'
    )
    (tmp_path / "pulid.toml").write_text(
        '[models]\nmodels-dir = "models"\ndiffusion-model = "models/a.gguf"\n'
    )
    said = generate("-p", "x").error
    assert "3 model files are missing" in said
    assert "run: pulid-generate pull encoders --models-dir" in said
