"""What is refused before anything expensive begins: no model file is looked for, let alone fetched,
for a mistake that shows at once.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models.portrait_models import models, models_folder
from support.paths import ROOT
from support.pictures.coloured_faces import GREEN, RED, picture, png
from support.programs.commands import call

PICTURE = png(picture((5, 5, RED)))
NOTHING = "model files are missing"  # what the same command says of an empty models folder


@pytest.fixture
def there(tmp_path):
    """A portrait, what is none, and an empty models folder."""
    (tmp_path / "models").mkdir()
    (tmp_path / "me.png").write_bytes(PICTURE)
    (tmp_path / "other.png").write_bytes(png(picture((9, 9, GREEN))))
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "small.png").write_bytes(png(np.zeros((20, 20, 3), np.uint8)))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--mask", "small.png"],
            "me.png: small.png: the mask is 20x20, the upright portrait is 640x640",
        ),
        (["--mask", "empty.jpg"], "empty.jpg: is empty"),
        (["--mask", "none.png"], "none.png: no such file; --mask wants"),
        (["--box", "600,0,50,50"], "me.png: --box 600,0,50,50: reaches outside the portrait"),
        (
            ["--face-box", "600,0,50,50"],
            "me.png: --face-box 600,0,50,50: reaches outside the portrait",
        ),
        (["--portrait", "other.png", "--portrait", "empty.jpg"], "empty.jpg: is empty"),
        ([], NOTHING),
    ],
)
def test_mistakes_are_said_before_models_are_looked_for(
    arguments, message, there, capfd, monkeypatch
):
    monkeypatch.chdir(there)
    code, stdout, stderr = call(
        capfd, monkeypatch, "--portrait", "me.png", "-o", "x", "--models-dir", "models", *arguments
    )
    assert (code, stdout) == (1, "")
    assert message in stderr.splitlines()[-1]
    assert stderr.count("error:") == 1
    assert not (there / "x").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_device_that_is_not_there_is_said_before_models_are_looked_for(there, capfd, monkeypatch):
    monkeypatch.chdir(there)
    arguments = ["--portrait", "me.png", "-o", "x", "--models-dir", "models"]
    for device, message in (("cuda", "--device cuda: not on this machine"), ("cpu", NOTHING)):
        code, _, stderr = call(capfd, monkeypatch, *arguments, "--device", device)
        assert code == 1
        assert message in stderr.splitlines()[-1]


def test_standard_input_is_one_picture(there, capfd, monkeypatch):
    code, _, stderr = call(
        capfd, monkeypatch, "--portrait", "-", "--mask", "-", "-o", str(there / "x"), *models()
    )
    assert code == 2
    assert "--mask -: standard input is the portrait" in stderr


def test_what_is_missing_says_how_to_get_it(there, capfd, monkeypatch):
    monkeypatch.chdir(there)
    code, _, stderr = call(capfd, monkeypatch, "faces", "me.png", "--models-dir", "models")
    assert code == 1
    assert "HF_HUB_OFFLINE is set, so it was not fetched" in stderr
    assert stderr.rstrip().endswith("or run: pulid-extract pull antelopev2 --models-dir models")


def test_a_closed_standard_output_is_one_line_before_the_work(there):
    command = (
        f"{sys.executable} -m pulid_extract faces {there / 'me.png'} --antelopev2 "
        f"{models_folder() / 'antelopev2'} >&-"
    )
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=dict(os.environ),
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "standard output: is closed" in done.stderr


def test_a_panorama_is_named(there, capfd, monkeypatch):
    (there / "wide.png").write_bytes(png(np.zeros((20, 9000, 3), np.uint8)))
    code, _, stderr = call(
        capfd,
        monkeypatch,
        "faces",
        str(there / "wide.png"),
        "--antelopev2",
        str(models_folder() / "antelopev2"),
    )
    assert code == 1
    assert f"error: {there / 'wide.png'}: the portrait is 9000x20: too narrow" in stderr


def test_drawn_faces_are_their_owners_alone(there, capfd, monkeypatch):
    drawn = there / "drawn.png"
    pack = ["--antelopev2", str(models_folder() / "antelopev2")]
    code, _, stderr = call(
        capfd, monkeypatch, "faces", str(there / "me.png"), *pack, "--draw", str(drawn)
    )
    assert code == 0, stderr
    assert stat.S_IMODE(drawn.stat().st_mode) == 0o600


def test_a_name_that_is_no_utf8_is_printed_as_it_is(capfdbinary):
    from pulid_extract.shared.cli import console

    console.write_line(os.fsdecode(b"\xff.pulidembd"))
    assert capfdbinary.readouterr().out == b"\xff.pulidembd\n"


def test_a_log_line_stays_one_line_without_escape_codes(capfd):
    from pulid_extract.shared.cli import console

    console.log("a\nb\x1b[31mc")
    assert capfd.readouterr().err == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}[31mc\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("program", ["pulid_extract", "pulid_generate"])
def test_help_into_a_full_disk_is_one_line(program):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", program, "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "standard output: cannot be written" in done.stderr
