"""pulid-generate by hand: pictures from the micro models through the command line, and one line for
everything that cannot be done.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import json
import os
import shlex
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.micro_flags import model_flags, pulid_flags
from support.paths import ROOT

from pulid_extract.shared.embedding_file import encode_embedding, read_embedding
from pulid_generate.files.model import Model
from pulid_generate.memory.plan import Measure, MeasureKind
from pulid_generate.pictures.description import parse_description
from pulid_generate.pipeline import loading, planning

STEPS = ("--steps", 2)


@pytest.fixture
def base(micro):
    """The model flags and a small picture; enough for run A."""
    return (
        *model_flags(micro),
        *("-p", "a photo of a cat", "-W", 64, "-H", 48, *STEPS),
    )


@pytest.fixture
def identity(micro, person):
    return *pulid_flags(micro), "--pulid-id-embedding", person


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def parameters(path) -> str:
    return Image.open(path).text["parameters"]


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
    (folder / "second.safetensors").symlink_to(micro / "ae.safetensors")
    assert (
        "2 files can be the autoencoder"
        in generate(*picture, "--models-dir", folder, "-o", tmp_path / "c.png").error
    )
    for path in folder.glob("*-ae*"):
        path.unlink()
    (folder / "second.safetensors").unlink()
    (folder / "cut.safetensors").write_bytes((micro / "ae.safetensors").read_bytes()[:-9])
    error = generate(*picture, "--models-dir", folder, "-o", tmp_path / "c.png").error
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
    from pulid_generate import GenerationRequest, ModelFiles, Pipeline, Placement

    files = ModelFiles.find(
        models_dir=micro,
        flux=micro / "flux1-schnell.safetensors",
        t5_tokenizer=micro / "tokenizer.json",
    )
    plain = Placement.choose("cpu")
    drawn = []
    for placement in (plain, replace(plain, offload=frozenset({Model.FLUX, Model.T5}))):
        pipeline = Pipeline(files, placement)
        jobs = pipeline.jobs(
            GenerationRequest("a cat", width=64, height=48, steps=2), read_embedding(person)
        )
        drawn += [picture.encode("PNG") for picture in pipeline.draw(jobs)]
    assert drawn[0] == drawn[1]
    assert not Placement.choose("cpu", offload=True).offload  # nothing to offload from


def test_tiling_draws_nearly_the_same_picture(generate, base, tmp_path):
    size = ("-W", 512, "-H", 512, "--steps", 1)
    generate(*base, *size, "-o", tmp_path / "whole.png")
    generate(*base, *size, "--vae-tiling", "-o", tmp_path / "tiled.png")
    whole, tiled = (
        pixels(tmp_path / "whole.png").astype(float),
        pixels(tmp_path / "tiled.png").astype(float),
    )
    assert whole.shape == tiled.shape == (512, 512, 3)
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
        in generate(*base, "-p", "x" * 600, "-o", tmp_path / "o.png").error
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


# ------------------------------------------------------------------------------------------- verify


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


# ---------------------------------------------------------------------------------------- bad input

WRONG_USAGE = [
    ((), "Missing option '--prompt'"),
    (("-p", "x", "--pulid-id-weight", "1"), "needs '--pulid-id-embedding'"),
    (("-p", "x", "--dtype", "int8"), "--dtype"),
    (("-p", "x", "--steps", "many"), "--steps"),
    (("-p", "x", "--sigmas", "1,a,0"), "--sigmas"),
    (("-p", "x", "--sigmas", ""), "--sigmas"),
    (("-p", "x", "--flow-shift", "some"), "--flow-shift"),
    (("-p", "x", "--no-such-flag"), "No such option"),
    (("-p", "x", "-o", "-", "--json"), "both want standard output"),
    (("-p", "x", "verify"), "options go after the sub-command"),
    (("verify", "-p", "x"), "Missing option '--pulid-id-embedding'"),
]


@pytest.mark.parametrize(("flags", "message"), WRONG_USAGE)
def test_wrong_usage_is_exit_2_with_usage_text(generate, flags, message):
    result = generate(*flags)
    assert result.code == 2
    assert "Usage: pulid-generate" in result.err
    assert message in result.err
    assert result.out == b""


BAD_VALUES = [
    (("-W", 100), "width 100: expected a multiple of 16"),
    (("-H", 0), "height 0"),
    (("-W", 90000), "width 90000"),
    (("--steps", 0), "steps 0: expected 1 to 10000"),
    (("-b", 0), "batch-count 0"),
    (("--t5-max-length", 513), "t5-max-length 513: expected 1 to 512"),
    (("--steps", 10**11), "steps 100000000000: expected 1 to 10000"),
    (("-b", 10**9), "batch-count 1000000000"),
    (("--cfg-scale", "1e38"), "cfg-scale 1e+38: expected a number from -1000 to 1000"),
    (("-p", "\udcff\udcfe"), "not valid UTF-8"),
    (("-o", "x" * 300 + ".png"), "give another name"),
    (("--guidance", "nan"), "guidance nan: expected a number from"),
    (("--flow-shift", "99"), "flow-shift 99.0"),
    (("--sigmas", "1,0.5"), "the last one 0"),
    (("--sigmas", "0.5,0.9,0"), "smaller than the one before"),
    (("--sigmas", "1,0.5,0", "--steps", 4), "3 sigmas are 2 steps"),
    (("--sigmas", "1,0.5,0", "--flow-shift", "1"), "flow-shift"),
    (("--cfg-scale", 2, "--cfg-start-step", 2), "cfg-scale would never be used"),
    (("--device", "tpu"), "device tpu: not usable here"),
    (("--device", "cpu:7"), "device cpu:7: there are 1 cpu devices"),
    (("--diffusion-model", "nowhere.safetensors"), "nowhere.safetensors: no such file"),
    (("--t5-tokenizer", "nowhere"), "nowhere: no such T5 tokenizer"),
    (("--sampling-method", "tcd"), "sampling-method tcd"),
    (("--sampling-method", "eule"), "sampling-method 'eule': expected one of euler, heun"),
    (("--scheduler", "ays"), "scheduler ays"),
    (("-o", "out.gif"), "out.gif: the suffix .gif is not that of a picture format"),
    (("-o", "no/such/folder/out.png"), "check that the folder exists"),
]


@pytest.mark.parametrize(("flags", "message"), BAD_VALUES)
def test_what_cannot_be_done_is_one_line_and_exit_1(generate, base, tmp_path, flags, message):
    old = tmp_path / "old.png"
    old.write_bytes(b"precious")
    result = generate(*base, "-o", old, *flags)
    assert message in result.error
    assert result.out == b""
    assert old.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [old]


BAD_IDENTITIES = [
    (("--id-start-step", 2), "the identity would never be used"),
    (("--cfg-scale", 2), "pulid-extract --with-uncond"),
    (("--pulid-id-weight", "1e39"), "pulid-id-weight 1e+39"),
    (("--pulid-id-embedding", "nowhere.pulidembd"), "nowhere.pulidembd: no such file"),
]


@pytest.mark.parametrize(("flags", "message"), BAD_IDENTITIES)
def test_an_identity_is_used_or_the_program_fails(
    generate, base, identity, tmp_path, flags, message
):
    assert message in generate(*base, *identity, "-o", tmp_path / "o.png", *flags).error
    assert not (tmp_path / "o.png").exists()


def damaged(kind: str, micro: Path, folder: Path) -> tuple[str, Path]:
    """(flag, a bad file for it) of each kind of damage."""
    flux, pulid, ae = (
        load_file(micro / f"{name}.safetensors")
        for name in ("flux1-schnell", "pulid_flux_v0.9.1", "ae")
    )
    path = folder / "bad.safetensors"
    one = torch.zeros(1)
    made = {
        "truncated": (
            "--vae",
            lambda: path.write_bytes((micro / "ae.safetensors").read_bytes()[:-1000]),
        ),
        "html": ("--vae", lambda: path.write_bytes(b"<!DOCTYPE html><html>404</html>")),
        "empty": ("--vae", lambda: path.write_bytes(b"")),
        "lfs": (
            "--vae",
            lambda: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        ),
        "header": (
            "--vae",
            lambda: path.write_bytes((2**60).to_bytes(8, "little") + b"{}" + bytes(80)),
        ),
        "wrong role": ("--vae", lambda: save_file(pulid, path)),
        "sdxl": (
            "--pulid-weights",
            lambda: save_file(
                {"id_adapter.latents": one, "id_adapter_attn_layers.0.id_to_k.weight": one + 1},
                path,
            ),
        ),
        "quanto": (
            "--diffusion-model",
            lambda: save_file(flux | {"double_blocks.0.img_attn.qkv.weight._data": one}, path),
        ),
        "nf4": (
            "--diffusion-model",
            lambda: save_file(flux | {"double_blocks.0.img_attn.qkv.weight.absmax": one}, path),
        ),
        "svdquant": (
            "--diffusion-model",
            lambda: save_file(flux | {"double_blocks.0.img_attn.qkv.qweight": one}, path),
        ),
        "gguf": ("--diffusion-model", lambda: path.write_bytes(b"GGUF" + bytes(60))),
        "incomplete": (
            "--vae",
            lambda: save_file(
                {name: value for name, value in ae.items() if "conv_out" not in name}, path
            ),
        ),
        "pruned": (
            "--diffusion-model",
            lambda: save_file(
                {
                    n: v
                    for n, v in flux.items()
                    if not n.startswith("single") or int(n.split(".")[1]) < 2
                },
                path,
            ),
        ),
        "other width": (
            "--t5xxl",
            lambda: _narrow_t5(load_file(micro / "t5xxl_fp16.safetensors"), path),
        ),
        "nan pulid": (
            "--pulid-weights",
            lambda: save_file(
                {
                    n: v * float("nan") if n == "pulid_ca.3.to_q.weight" else v
                    for n, v in pulid.items()
                },
                path,
            ),
        ),
        "nan clip": (
            "--clip_l",
            lambda: save_file(
                {n: v * float("nan") for n, v in load_file(micro / "clip_l.safetensors").items()},
                path,
            ),
        ),
        "int": (
            "--diffusion-model",
            lambda: save_file(flux | {"img_in.bias": flux["img_in.bias"].int()}, path),
        ),
        "qkv": (
            "--diffusion-model",
            lambda: save_file(flux | {"double_blocks.0.img_attn.qkv.bias": torch.zeros(7)}, path),
        ),
        "long qkv": (
            "--diffusion-model",
            lambda: save_file(flux | {"double_blocks.0.img_attn.qkv.bias": torch.zeros(999)}, path),
        ),
        "offsets": (
            "--vae",
            lambda: path.write_bytes(
                _lying_header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, "x"]}})
            ),
        ),
        "nan": (
            "--diffusion-model",
            lambda: save_file(flux | {"img_in.bias": flux["img_in.bias"] * float("nan")}, path),
        ),
    }
    flag, write = made[kind]
    write()
    return flag, path


def _lying_header(entries) -> bytes:
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + bytes(64)


def _narrow_t5(state, path):
    save_file(
        {
            name: value[..., :32].contiguous() if value.shape[-1] == 64 else value
            for name, value in state.items()
        },
        path,
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "truncated"),
        ("html", "HTML page"),
        ("empty", "is empty"),
        ("lfs", "git-lfs pointer"),
        ("header", "truncated or not a safetensors file"),
        ("wrong role", "is a PuLID-FLUX file, --vae wants a Flux autoencoder"),
        ("sdxl", "SDXL PuLID file"),
        ("quanto", "quanto"),
        ("nf4", "nf4"),
        ("svdquant", "SVDQuant"),
        ("gguf", "damaged or truncated GGUF"),
        ("incomplete", "missing decoder.conv_out"),
        ("pruned", "a pruned Flux cannot be used"),
        ("other width", "they do not belong together"),
        ("nan", "NaN or infinite"),
        ("nan pulid", "pulid_ca.3 holds NaN"),
        ("nan clip", "gives NaN or infinite states"),
        ("int", "img_in.bias is stored as int32"),
        ("qkv", "(7,), expected (128,)"),
        ("long qkv", "(999,), expected (128,)"),
        ("offsets", "header is damaged"),
    ],
)
def test_bad_files_are_refused_by_what_they_are(
    generate, base, identity, micro, tmp_path, kind, message
):
    folder = tmp_path / "bad"
    folder.mkdir()
    flag, path = damaged(kind, micro, folder)
    result = generate(*base, *identity, flag, path, "-o", tmp_path / "o.png")
    assert message in result.error
    assert str(path) in result.error
    assert not (tmp_path / "o.png").exists()


def test_a_safetensors_whose_header_length_looks_like_a_pickle_is_read(
    generate, base, micro, tmp_path
):
    """A length that is 128 modulo 256 starts with the byte that starts a pickle: one file in
    thirty-two.
    """
    data = (micro / "ae.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    padding = (128 - length) % 256
    padded = (
        (length + padding).to_bytes(8, "little")
        + data[8 : 8 + length]
        + b" " * padding
        + data[8 + length :]
    )
    assert padded[0] == 0x80
    (tmp_path / "ae.safetensors").write_bytes(padded)
    assert generate(*base, "--vae", tmp_path / "ae.safetensors", "-o", tmp_path / "a.png").code == 0
    assert generate(*base, "-o", tmp_path / "b.png").code == 0
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))


def test_a_picture_never_replaces_an_input(generate, base, identity, person, tmp_path):
    mine = tmp_path / "me.png"
    mine.write_bytes(person.read_bytes())
    flags = (*base, *identity[:-1], mine)
    assert "is read as an input" in generate(*flags, "-o", mine).error
    assert mine.read_bytes() == person.read_bytes()
    (tmp_path / "x_A.png").symlink_to(mine)
    assert "is read as an input" in generate("verify", *flags, "-o", tmp_path / "x.png").error
    assert mine.read_bytes() == person.read_bytes()


@pytest.mark.parametrize("redirect", [">/dev/full", ">&-"])
def test_a_full_or_closed_standard_output_is_one_line(micro, redirect):
    """In a process, with a command that needs no torch."""
    inspect = (sys.executable, "-m", "pulid_generate", "inspect", micro / "ae.safetensors")
    command = " ".join(shlex.quote(str(part)) for part in inspect)
    done = subprocess.run(
        ["bash", "-c", f"{command} {redirect}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "standard output: " in done.stderr.splitlines()[-1]


def test_a_picture_whose_name_cannot_be_printed_is_one_line(generate, base, tmp_path, monkeypatch):
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert "standard output: " in generate(*base, "-o", tmp_path / "a.png").error
        with contextlib.suppress(OSError):  # what is left in its buffer
            full.close()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)  # as Python starts with a closed one
        assert "standard output: " in generate(*base, "-o", tmp_path / "b.png").error


@pytest.mark.parametrize(
    ("package", "blocked"), [("pulid_generate", "transformers"), ("pulid_extract", "cv2")]
)
def test_a_missing_extra_is_one_line_that_says_what_to_install(package, blocked, base, tmp_path):
    Image.new("RGB", (2000, 64)).save(tmp_path / "p.png")
    flags = {
        "pulid_generate": [*map(str, base), "-o", str(tmp_path / "a.png")],
        "pulid_extract": ["--portrait", str(tmp_path / "p.png"), "--out", str(tmp_path / "o")],
    }[package]
    code = f"import sys; sys.modules[{blocked!r}] = None; sys.argv[1:] = {flags!r}\nfrom {package}.cli import main\nmain()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert blocked in done.stderr.splitlines()[-1]
    assert f"pip install 'pulid-flux-toolkit[{package.removeprefix('pulid_')}]'" in done.stderr


def test_an_embedding_of_another_width_is_refused(generate, base, identity, tmp_path):
    narrow = tmp_path / "narrow.pulidembd"
    narrow.write_bytes(encode_embedding(np.ones((32, 1024))))
    error = generate(*base, *identity[:-1], narrow, "-o", tmp_path / "o.png").error
    assert str(narrow) in error
    assert "32x1024" in error
    assert "rows of 2048; extract it again" in error


def test_a_tokenizer_of_another_model_is_refused(generate, base, micro, tmp_path):
    state = load_file(micro / "t5xxl_fp16.safetensors")
    few = {
        name: value[:20].contiguous() if value.shape[0] == 32128 else value
        for name, value in state.items()
    }
    save_file(few, tmp_path / "few.safetensors")
    flags = (
        "--t5xxl",
        tmp_path / "few.safetensors",
        "--t5-tokenizer",
        micro / "tokenizer.json",
        "-o",
        tmp_path / "o.png",
    )
    assert "the encoder has 20 rows; they do not belong together" in generate(*base, *flags).error


# ------------------------------------------------------------------------------------- entry points


@pytest.mark.parametrize("package", ["pulid_generate", "pulid_extract"])
def test_help_is_quick_because_torch_stays_out(package):
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['x', '--help']\n"
        "try:\n"
        f"    runpy.run_module('{package}', run_name='__main__', alter_sys=True)\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'torch', 'numpy', 'transformers', 'diffusers', 'cv2', 'insightface', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


@pytest.mark.slow
def test_three_processes_agree(base, identity, tmp_path):
    """scripts/verify_three_way.sh: the same check with separate processes and sha256sum."""
    flags = [str(flag) for flag in (*base, *identity)]
    done = subprocess.run(
        ["bash", ROOT / "scripts" / "verify_three_way.sh", *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PULID_GENERATE": f"{sys.executable} -m pulid_generate",
            "PYTHONPATH": str(ROOT),
        },
    )
    assert done.returncode == 0, done.stderr
    assert "PASSED" in done.stdout
    assert len([line for line in done.stdout.splitlines() if len(line.split()[0]) == 64]) == 3


def test_picture_from_bytes(generate, base, tmp_path):
    """`-o -` is a whole PNG."""
    with Image.open(io.BytesIO(generate(*base, "-o", "-").out)) as picture:
        assert picture.size == (64, 48)
