"""Which LoRA files, and how strongly: the flag, and the tags' names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

from pulid_generate.errors import InputError, RequestError
from pulid_generate.lora.choice import (
    LoraChoice,
    choose_loras,
    file_sha256,
    find_lora,
    parse_lora_flag,
)


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("style.safetensors", "sub/other.safetensors", "old.pt", "with.dots.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "weight"), [("", 1.0), (":0.8", 0.8), (":-1", -1.0), (":0", 0.0), (":1e-1", 0.1)]
)
def test_the_flag(folder, text, weight):
    assert parse_lora_flag(f"{folder}/style.safetensors{text}") == LoraChoice(
        folder / "style.safetensors", weight
    )


def test_a_file_with_a_colon_in_its_name(folder):
    (folder / "a:1").write_bytes(b"x")
    assert parse_lora_flag(f"{folder}/a:1") == LoraChoice(folder / "a:1")
    assert parse_lora_flag(f"{folder}/a:1:2") == LoraChoice(folder / "a:1", 2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none.safetensors", "no such file; expected FILE or FILE:WEIGHT"),
        ("none.safetensors:1", "no such file; expected FILE or FILE:WEIGHT"),
        ("style.safetensors:x", "the weight 'x' is not a number"),
        ("style.safetensors:inf", "the weight 'inf' is not a number"),
        ("style.safetensors:", "the weight '' is not a number"),
        ("sub", "is a folder"),
    ],
)
def test_a_flag_with_a_mistake(folder, text, message):
    with pytest.raises((InputError, RequestError), match=message):
        parse_lora_flag(f"{folder}/{text}")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("style", "style.safetensors"),
        ("style.safetensors", "style.safetensors"),
        ("sub/other", "sub/other.safetensors"),
        ("with.dots", "with.dots.safetensors"),
    ],
)
def test_a_tags_name_is_found_in_the_folder(folder, name, found):
    assert find_lora(name, folder) == folder / found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stile", "stile.safetensors is not there; .* has style and others"),
        ("old", "old.pt is not a .safetensors file"),
        ("../style", "may not lead out of"),
        ("/etc/style", "may not lead out of"),
    ],
)
def test_a_name_that_is_not_there(folder, name, message):
    with pytest.raises((InputError, RequestError), match=message):
        find_lora(name, folder)


def test_a_tag_needs_a_folder(tmp_path):
    with pytest.raises(RequestError, match="give --lora-model-dir FOLDER, or --lora FILE"):
        find_lora("style", None)
    with pytest.raises(InputError, match="no such folder"):
        find_lora("style", tmp_path / "none")
    with pytest.raises(InputError, match=r"holds no \.safetensors file"):
        find_lora("style", tmp_path)


def test_one_file_named_twice_has_the_sum_of_its_weights(folder):
    style, other = folder / "style.safetensors", folder / "sub/other.safetensors"
    chosen = choose_loras([LoraChoice(style, 0.5)], [("sub/other", 1.0), ("style", 0.25)], folder)
    assert chosen == (LoraChoice(style, 0.75), LoraChoice(other, 1.0))
    assert choose_loras([], [], None) == ()


def test_choosing_needs_no_torch():
    code = (
        "import sys\nimport pulid_generate.lora.choice, pulid_generate.request.prompts.prompt, "
        "pulid_generate.models.weighted_prompts\n"
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)), 'numpy' in "
        "sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[] True\n"), done.stderr


def test_the_hash_is_of_the_bytes(folder):
    assert (
        file_sha256(folder / "style.safetensors")
        == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    )
