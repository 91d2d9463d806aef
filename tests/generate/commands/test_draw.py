"""pulid-generate by hand: pictures from the micro models through the command line."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.distances import pixels
from support.models.micro_flags import micro_files, pulid_flags
from support.pictures.micro_drawing import drawn_kept_and_streamed

from pulid_extract.shared.embedding_file import encode_embedding, read_embedding
from pulid_generate.files.model import Model
from pulid_generate.memory.plan import Measure, MeasureKind
from pulid_generate.pictures.description import parse_description
from pulid_generate.pipeline import loading, planning

STEPS = ("--steps", 2)


def parameters(path) -> str:
    return Image.open(path).info["parameters"]


@pytest.mark.parametrize("folder", ["micro", pytest.param("deep", marks=pytest.mark.slow)])
def test_three_way_by_sha256(generate, base, identity, folder, request, tmp_path):
    """deep: with as many blocks as the published Flux."""
    models = request.getfixturevalue(folder)
    base = (*base, "--diffusion-model", models / "flux1-schnell.safetensors")
    identity = (*identity, *pulid_flags(models))
    a, b, c = (tmp_path / f"{run}.png" for run in "abc")
    assert generate(*base, "-o", a).code == 0
    assert generate(*base, *identity, "--pulid-id-weight", 0, "-o", b).code == 0
    result = generate(*base, *identity, "--pulid-id-weight", 1, "-o", c)
    assert result.code == 0
    assert result.out.decode() == f"{c}\n"  # the path and nothing else
    assert a.read_bytes() == b.read_bytes()
    assert not np.array_equal(pixels(a), pixels(c))
    assert pixels(a).shape == (48, 64, 3)
    assert pixels(a).std() > 5  # a picture, not a flat sheet


def test_metadata_holds_effective_inputs_only(generate, base, identity, person, tmp_path):
    generate(*base, *identity, "-o", tmp_path / "c.png", "--pulid-id-weight", 0.8)
    text = parameters(tmp_path / "c.png")
    facts = parse_description(text)
    assert text.splitlines()[0] == "a photo of a cat"
    assert "Steps: 2, Sampler: Euler" in text.splitlines()[1]
    assert facts["identity"] == {
        "sha256": hashlib.sha256(person.read_bytes()).hexdigest(),
        "weight": 0.8,
        "start_step": 0,
    }
    assert facts["sigmas"] == [1.0, 0.5, 0.0]
    assert "guidance" not in facts  # schnell has no guidance input
    assert str(tmp_path) not in text  # no path of any kind
    assert "negative_prompt" not in facts
    generate(*base, "-o", tmp_path / "bare.png", "--disable-image-metadata")
    assert Image.open(tmp_path / "bare.png").text == {}
    generate(*base, "-o", tmp_path / "ü.png", "-p", "naïve café 日本")
    assert parse_description(parameters(tmp_path / "ü.png"))["prompt"] == "naïve café 日本"


def test_json_and_streams(generate, base, identity, person, tmp_path):
    out = tmp_path / "o.png"
    result = generate(*base, *identity, "-o", out, "--json")
    facts = json.loads(result.out)
    assert facts["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert (facts["seed"], facts["steps"], facts["width"], facts["height"], facts["id_weight"]) == (
        42,
        2,
        64,
        48,
        1.0,
    )
    assert facts["identity"] == hashlib.sha256(person.read_bytes()).hexdigest()

    piped = generate(*base, *identity[:-1], "-", "-o", "-", "--verbose", stdin=person.read_bytes())
    assert piped.out == out.read_bytes()
    assert "loading Flux" in piped.err


def test_batch_is_the_single_pictures_with_seed_plus_i(generate, base, tmp_path):
    result = generate(*base, "-b", 2, "-s", 7, "-o", tmp_path / "x.png")
    assert result.out.decode().split() == [str(tmp_path / "x_0.png"), str(tmp_path / "x_1.png")]
    generate(*base, "-s", 8, "-o", tmp_path / "single.png")
    assert (tmp_path / "x_1.png").read_bytes() == (tmp_path / "single.png").read_bytes()
    assert (tmp_path / "x_0.png").read_bytes() != (tmp_path / "single.png").read_bytes()
    result = generate(*base, "-b", 2, "-s", 7, "-o", tmp_path / "y_%03d.png")
    assert result.out.decode().split() == [str(tmp_path / "y_000.png"), str(tmp_path / "y_001.png")]


def test_every_knob_moves_the_picture(generate, base, identity, micro, tmp_path):
    """A flag that is parsed and ignored would give one of these the bytes of another."""
    uncond = tmp_path / "uncond.pulidembd"
    tokens = read_embedding(identity[-1]).tokens
    uncond.write_bytes(encode_embedding(tokens, tokens[::-1] * 0.5))
    identity = (*identity[:-1], uncond)
    cfg = ("--cfg-scale", 3, "-n", "blurry")
    variants = {
        "plain": (),
        "seed": ("-s", 1),
        "rng": ("--rng", "cpu"),
        "steps": ("--steps", 3),
        "sigmas": ("--steps", 2, "--sigmas", "1,0.3,0"),
        "late noise": ("--steps", 2, "--sigmas", "0.9,0.3,0"),
        "shift": ("--flow-shift", "1.15"),
        "length": ("--t5-max-length", 32),
        "weight": ("--pulid-id-weight", 0.4),
        "start": ("--id-start-step", 1),
        "negative prompt": ("--true-cfg", 3, "-n", "sharp"),
        "cfg": cfg,
        "cfg start": (*cfg, "--cfg-start-step", 1),
        "cfg same": (*cfg, "--negative-id", "same"),
        "cfg none": (*cfg, "--negative-id", "none"),
        "bfloat16": ("--dtype", "bfloat16"),
        "float16": ("--dtype", "f16"),
        "size": ("-W", 80),
    }
    drawn = {}
    for name, flags in variants.items():
        out = tmp_path / f"{name}.png"
        result = generate(*base, *identity, *flags, "-o", out)
        assert result.code == 0, result.err
        drawn[name] = pixels(out).tobytes()
        twin = [other for other, data in drawn.items() if other != name and data == drawn[name]]
        assert not twin, f"{name} draws the same picture as {twin}"
    generate(*base, *identity, "--guidance", 9, "-o", tmp_path / "guidance.png")
    # schnell: no guidance input
    assert pixels(tmp_path / "guidance.png").tobytes() == drawn["plain"]
    flux = ("--diffusion-model", micro / "dev" / "flux1-dev.safetensors")
    for guidance in (3.5, 9):
        generate(
            *base, *flux, *identity, "--guidance", guidance, "-o", tmp_path / f"dev{guidance}.png"
        )
    assert pixels(tmp_path / "dev3.5.png").tobytes() != pixels(tmp_path / "dev9.png").tobytes()


def test_default_steps_follow_the_model(generate, base, micro, tmp_path):
    flags = base[:-2]
    assert json.loads(generate(*flags, "--json", "-o", tmp_path / "a.png").out)["steps"] == 4
    dev = ("--diffusion-model", micro / "dev" / "flux1-dev.safetensors")
    assert json.loads(generate(*flags, *dev, "--json", "-o", tmp_path / "a.png").out)["steps"] == 20
    facts = parse_description(parameters(tmp_path / "a.png"))
    # BFL's shift for the 12 image tokens of 64x48: mu = 0.5 + (12 - 256) * 0.65 / 3840
    mu = 0.5 + (12 - 256) * 0.65 / 3840
    assert facts["sigmas"][1] == pytest.approx(np.exp(mu) / (np.exp(mu) + 1 / 0.95 - 1), abs=1e-5)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "-"])
def test_every_name_of_standard_output_is_the_picture_alone(generate, base, name):
    run = generate(*base, "-o", name)
    assert run.code == 0, run.err
    assert run.out.startswith(b"\x89PNG")
    assert run.out.endswith(b"IEND\xaeB`\x82")


def test_models_folder_fills_every_role(generate, base, identity, micro, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    for file in micro.iterdir():
        if file.is_file():
            (folder / f"renamed-{file.stem[:4]}{file.suffix}").symlink_to(file)
    picture = ("-p", "a photo of a cat", "-W", 64, "-H", 48, "--device", "cpu", *STEPS)
    tokenizer = ("--t5-tokenizer", micro / "tokenizer.json")
    person = identity[-2:]
    result = generate(
        *picture, *tokenizer, *person, "--models-dir", folder, "-o", tmp_path / "a.png"
    )
    assert result.code == 0, result.err
    generate(*base, *identity, "-o", tmp_path / "b.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))
    # a copy: links to one file are one file
    shutil.copyfile(micro / "ae.safetensors", folder / "second.safetensors")
    assert (
        "2 files can be the autoencoder"
        in generate(*picture, *tokenizer, "--models-dir", folder, "-o", tmp_path / "c.png").error
    )
    for path in folder.glob("*-ae*"):
        path.unlink()
    (folder / "second.safetensors").unlink()
    (folder / "cut.safetensors").write_bytes((micro / "ae.safetensors").read_bytes()[:-9])
    error = generate(*picture, *tokenizer, "--models-dir", folder, "-o", tmp_path / "c.png").error
    assert "autoencoder: none in" in error
    assert "cut.safetensors: truncated" in error


def test_sixteen_bit_weights_widened_per_layer_draw_the_same_bytes(
    generate, base, identity, tmp_path, monkeypatch
):
    generate(*base, *identity, "-o", tmp_path / "wide.png")
    make_plan, widened = planning.make_plan, []
    widen = loading.widen_while_running
    # what a plan for little memory says; memory/test_plan.py has such plans
    measures = (Measure(MeasureKind.SIXTEEN_BIT, "for this test"),)

    def plan_for_little_memory(*arguments):
        plan = make_plan(*arguments)
        stages = []
        for stage in plan.stages:
            transformer = stage.model in (Model.T5, Model.FLUX)
            stages.append(replace(stage, measures=measures) if transformer else stage)
        return replace(plan, stages=tuple(stages))

    monkeypatch.setattr(planning, "make_plan", plan_for_little_memory)
    monkeypatch.setattr(
        loading,
        "widen_while_running",
        lambda model, **o: (widened.append(model), widen(model, **o)),
    )
    result = generate(*base, *identity, "-o", tmp_path / "narrow.png")
    assert result.code == 0, result.err
    assert len(widened) == 2  # T5 and Flux
    assert (tmp_path / "wide.png").read_bytes() == (tmp_path / "narrow.png").read_bytes()


def test_offloaded_weights_draw_the_same_picture(micro, person):
    """Blocks streamed through the device, under our hooks. Both devices are the CPU here: the
    mechanism runs, the transfer does not.
    """
    from pulid_generate import Placement

    kept, streamed = drawn_kept_and_streamed(micro_files(micro), person)
    assert kept == streamed
    assert not Placement.choose("cpu", offload=True).offload  # nothing to offload from


def test_the_default_arithmetic_is_the_processors(generate, base, tmp_path, monkeypatch):
    """--dtype auto is bfloat16 where the processor multiplies it, float32 elsewhere; the variable
    stands for the flag.
    """
    from pulid_generate.memory import placement

    def drawn(*flags: str) -> bytes:
        out = tmp_path / "out.png"
        run = generate(*base, *flags, "--steps", 1, "-o", out, "--json")
        told.append(json.loads(run.out)["arithmetic"])
        return out.read_bytes()

    told: list[str] = []
    named = {dtype: drawn("--dtype", dtype) for dtype in ("float32", "bfloat16")}
    assert told == ["float32", "bfloat16"]
    assert named["float32"] != named["bfloat16"]
    assert drawn() == named["float32"], "the tests' own variable"
    monkeypatch.delenv("PULID_DTYPE")
    for multiplies, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(placement, "multiplies_bfloat16", lambda there=multiplies: there)
        assert drawn() == named[dtype]


def test_tiling_draws_nearly_the_same_picture(generate, base, tmp_path):
    size = ("-W", 256, "-H", 256, "--steps", 1)
    generate(*base, *size, "-o", tmp_path / "whole.png")
    tiling = ("--vae-tiling", "--vae-tile-size", "16x16")
    generate(*base, *size, *tiling, "-o", tmp_path / "tiled.png")
    whole, tiled = (
        pixels(tmp_path / "whole.png").astype(float),
        pixels(tmp_path / "tiled.png").astype(float),
    )
    assert whole.shape == tiled.shape == (256, 256, 3)
    assert 0 < np.abs(whole - tiled).mean() < 30


def test_a_long_prompt_takes_512_tokens_and_says_so(generate, base, tmp_path):
    result = generate(*base, "-p", "cat " * 90, "-o", tmp_path / "long.png")
    assert result.code == 0
    # effective inputs
    assert parse_description(parameters(tmp_path / "long.png"))["t5_tokens"] == [512]
    assert "more than 256: using 512" in result.err
    assert "CLIP reads the first 75" in result.err
    assert (
        "the most that Flux reads is 512"
        in generate(*base, "-p", "x" * 600, "-o", tmp_path / "o.png").usage_error
    )


def test_each_model_is_gone_before_the_next_one_loads(generate, base, tmp_path, monkeypatch):
    alive: list[weakref.ref] = []
    seen: dict[str, int] = {}

    def watched(name, load):
        def run(*arguments, **options):
            gc.collect()
            seen[name] = sum(ref() is not None for ref in alive)
            loaded = load(*arguments, **options)
            alive.append(weakref.ref(getattr(loaded, "model", loaded)))
            return loaded

        return run

    for name in ("load_flux", "load_vae"):
        monkeypatch.setattr(loading, name, watched(name, getattr(loading, name)))
    for cls in (loading.ClipText, loading.T5Text):
        monkeypatch.setattr(cls, "load", watched(cls.__name__, cls.load))
    assert generate(*base, "-o", tmp_path / "a.png").code == 0
    assert seen == {"ClipText": 0, "T5Text": 0, "load_flux": 0, "load_vae": 0}


def test_running_out_of_memory_is_a_line_that_names_what_helps(
    generate, base, tmp_path, monkeypatch
):
    def explode(*_arguments, **_options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("pulid_generate.pipeline.pixels.decode", explode)
    assert (
        "autoencoder: out of memory on cpu; try --vae-tiling"
        in generate(*base, "-o", tmp_path / "a.png").error
    )
    monkeypatch.setattr(loading, "load_flux", explode)
    assert (
        "Flux: out of memory on cpu; try a GGUF file"
        in generate(*base, "-o", tmp_path / "a.png").error
    )


@pytest.mark.parametrize(
    ("asked", "used"),
    [("float16", torch.bfloat16), ("bfloat16", torch.bfloat16), ("float32", torch.float32)],
)
def test_t5_never_runs_in_float16(generate, base, tmp_path, monkeypatch, asked, used):
    """T5-XXL's activations overflow it."""
    seen = []
    load = loading.T5Text.load

    def watched(header, dtype, device):
        seen.append(dtype)
        return load(header, dtype, device)

    monkeypatch.setattr(loading.T5Text, "load", watched)
    assert generate(*base, "--dtype", asked, "-o", tmp_path / "a.png").code == 0
    assert seen == [used]


def test_flags_without_effect_are_named(generate, base, tmp_path):
    result = generate(
        *base,
        "-n",
        "blurry",
        "--guidance",
        4,
        "--negative-id",
        "same",
        "--vae-on-cpu",
        "-o",
        tmp_path / "a.png",
    )
    notes = [line for line in result.err.splitlines() if line.startswith("note:")]
    assert [note.split()[1] for note in notes] == [
        "--vae-on-cpu",
        "--guidance",
        "--negative-prompt",
        "--negative-id",
    ]
    assert "note:" not in generate(*base, "-o", tmp_path / "a.png").err


def test_verify_passes_and_keeps_the_pictures(generate, base, identity, tmp_path):
    result = generate("verify", *base, *identity, "-o", tmp_path / "v.png")
    assert result.code == 0, result.err
    assert result.out.decode().splitlines()[-1].startswith("A = B, A != C")
    a, b, c = ((tmp_path / f"v_{run}.png").read_bytes() for run in "ABC")
    assert a == b != c
    assert hashlib.sha256(c).hexdigest() in result.out.decode()
    facts = json.loads(generate("verify", *base, *identity, "--json").out)
    assert facts["passed"]
    assert facts["moved"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v_A.png", "v_B.png", "v_C.png"]


def test_verify_fails_for_an_identity_without_effect(generate, base, identity, micro, tmp_path):
    state = load_file(micro / "pulid_flux_v0.9.1.safetensors")
    dead = {
        name: value * 0 if name.endswith("to_out.weight") and "pulid_ca" in name else value
        for name, value in state.items()
    }
    save_file(dead, tmp_path / "dead.safetensors")
    flags = (*base, *identity[2:], "--pulid-weights", tmp_path / "dead.safetensors")
    assert "C equals A" in generate("verify", *flags).error


def test_verify_fails_when_weight_zero_is_not_neutral(generate, base, identity, monkeypatch):
    from pulid_generate.injection import hooks as injection

    monkeypatch.setattr(injection.torch, "add", lambda a, b, alpha: a + (alpha + 0.5) * b)
    assert "A and B differ" in generate("verify", *base, *identity).error
