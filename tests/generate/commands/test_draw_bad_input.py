"""Everything that cannot be drawn is one line, exit 1, and no file."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.distances import pixels

from pulid_extract.shared.embedding_file import encode_embedding

WRONG_USAGE = [
    ((), "Examples:"),  # help
    (("-o", "x.png"), "Missing option '--prompt'"),
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
    (("--guidance", "nan"), "guidance nan: expected a number from"),
    (("--flow-shift", "99"), "flow-shift 99.0"),
    (("--sigmas", "1,0.5"), "the last one 0"),
    (("--sigmas", "0.5,0.9,0"), "smaller than the one before"),
    (("--sigmas", "1,0.5,0", "--steps", 4), "3 sigmas are 2 steps"),
    (("--sigmas", "1,0.5,0", "--flow-shift", "1"), "flow-shift"),
    (("--cfg-scale", 2, "--cfg-start-step", 2), "cfg-scale would never be used"),
    (("--device", "tpu"), "device tpu: expected auto"),
    (("--sampling-method", "tcd"), "sampling-method tcd"),
    (("--sampling-method", "eule"), "sampling-method 'eule': expected one of euler, heun"),
    (("--scheduler", "ays"), "scheduler ays"),
    (("-o", "out.gif"), "out.gif: the suffix .gif is not that of a picture format"),
]

# the machine or a file decides
BAD_FILES = [
    (("-o", "x" * 300 + ".png"), "give another name"),
    (("--device", "cpu:7"), "device cpu:7: there are 1 cpu devices"),
    (("--diffusion-model", "nowhere.safetensors"), "nowhere.safetensors: no such file"),
    (("--t5-tokenizer", "nowhere"), "nowhere: no such T5 tokenizer"),
    (("-o", "no/such/folder/out.png"), "check that the folder exists"),
    (("--device", "mps:3"), "device mps:3: not usable here"),
]


@pytest.mark.parametrize(
    ("flags", "message", "code"),
    [(*case, 2) for case in BAD_VALUES] + [(*case, 1) for case in BAD_FILES],
)
def test_what_cannot_be_done_is_one_line_and_exit_2_or_1(
    generate, base, tmp_path, flags, message, code
):
    old = tmp_path / "old.png"
    old.write_bytes(b"precious")
    result = generate(*base, "-o", old, *flags)
    assert message in (result.usage_error if code == 2 else result.error)
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
    assert message in generate(*base, *identity, "-o", tmp_path / "o.png", *flags).refusal
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


def test_a_picture_whose_name_cannot_be_printed_is_one_line(generate, base, tmp_path, monkeypatch):
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert "standard output: " in generate(*base, "-o", tmp_path / "a.png").error
        with contextlib.suppress(OSError):  # what is left in its buffer
            full.close()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)  # as Python starts with a closed one
        assert "standard output: " in generate(*base, "-o", tmp_path / "b.png").error


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
