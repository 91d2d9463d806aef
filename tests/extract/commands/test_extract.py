"""`pulid-extract --portrait`: the same bytes from another process, what is left alone, misuse."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.models.portrait_models import models, models_folder
from support.paths import ROOT
from support.pictures.coloured_faces import picture, png
from support.pictures.extractions import CORNER, MIDDLE, box_of, crop, identity
from support.programs.commands import call

from pulid_extract import cli, decode_embedding, read_embedding
from pulid_extract.version import __version__


def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pulid_extract", *arguments],
        capture_output=True,
        env=environment,
        timeout=300,
    )


def test_the_command_twice_same_bytes(tmp_path, capfdbinary, monkeypatch):
    portrait = tmp_path / "me.png"
    portrait.write_bytes(png(picture(CORNER, MIDDLE)))
    out, face, cropped = tmp_path / "me.pulidembd", tmp_path / "face.png", tmp_path / "crop.png"
    pictures = ["--face-image", str(face), "--crop-image", str(cropped)]
    flags = [*models(), "--with-uncond"]

    first = run("--portrait", str(portrait), "--out", str(out), "--json", *flags, *pictures)
    assert first.returncode == 0, first.stderr.decode()
    assert first.stdout.count(b"\n") == 1  # nothing but the result, whatever the libraries print
    assert b"Warning" not in first.stderr
    report = json.loads(first.stdout)
    embedding = read_embedding(out)
    assert report["output"] == str(out)
    assert report["sha256"] == embedding.sha256
    assert report["tokens"] == [32, 2048]
    assert report["faces"] == 2
    assert report["box"] == list(vars(box_of(CORNER)).values())
    assert report["files"]["eva_clip"] == {
        "path": str(models_folder() / "eva.pt"),
        "rule": "models folder",
    }
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    np.testing.assert_array_equal(
        embedding.tokens, identity(CORNER, MIDDLE).tokens.astype(np.float16).astype(np.float32)
    )
    assert embedding.uncond is not None
    assert embedding.provenance["tool"] == f"pulid_extract {__version__}"
    assert embedding.provenance["face"] == "largest"
    assert set(embedding.provenance) == {
        "tool",
        "face",
        "portrait.sha256",
        "weights.sha256",
        "eva_clip.sha256",
        "recognizer.sha256",
    }
    recogniser = models_folder() / "antelopev2" / "glintr100.onnx"
    assert embedding.recognizer == hashlib.sha256(recogniser.read_bytes()).hexdigest()
    np.testing.assert_array_equal(np.asarray(Image.open(cropped)), crop(CORNER, MIDDLE).crop)
    np.testing.assert_array_equal(np.asarray(Image.open(face)), crop(CORNER, MIDDLE).grey_face)

    # Again in this process, through pipes: another process and another road to the same bytes.
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(portrait.read_bytes())))
    monkeypatch.setattr(
        sys, "argv", ["pulid-extract", "--portrait", "-", "--out", "-", "--json", *flags]
    )
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    stdout, stderr = capfdbinary.readouterr()
    assert not exit_.value.code
    assert stdout == out.read_bytes()
    assert json.loads(stderr.splitlines()[-1])["output"] == "-"


def test_a_failure_leaves_the_old_file(tmp_path, capfd, monkeypatch):
    portrait, out = tmp_path / "me.png", tmp_path / "me.pulidembd"
    portrait.write_bytes(png(picture()))
    out.write_bytes(b"old")
    files = ("--portrait", str(portrait), "-o", str(out))
    code, stdout, stderr = call(capfd, monkeypatch, *files, *models())
    assert code == 1
    assert stdout == ""
    assert f"pulid-extract: error: {portrait}: no face found" in stderr
    assert "Traceback" not in stderr
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["me.png", "me.pulidembd"]


def test_dtypes_and_a_box_by_hand(tmp_path, capfd, monkeypatch):
    portrait = tmp_path / "me.png"
    portrait.write_bytes(png(picture(CORNER)))
    for dtype in ("f32", "bf16"):
        out = tmp_path / f"{dtype}.pulidembd"
        flags = ("-o", str(out), "--dtype", dtype, "--face-box", "0,0,512,512")
        code, stdout, stderr = call(
            capfd, monkeypatch, "--portrait", str(portrait), *flags, *models()
        )
        assert (code, stdout) == (0, f"{out}\n"), stderr
        assert read_embedding(out).dtype == dtype
        assert read_embedding(out).provenance["face"] == "box"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Examples:"),  # help
        (["-o", "x"], "Missing option '--portrait'"),
        (["--portrait", "a.jpg"], "Missing option '--out'"),
        (["--portrait", "a.jpg", "-o", "x", "--dtype", "f8"], "--dtype"),
        (["--portrait", "a.jpg", "-o", "x", "--face-box", "1,2,3"], "--face-box"),
        (["--portrait", "a.jpg", "-o", "x", "--device", "gpu"], "--device"),
        (["a.jpg", "-o", "x"], "a.jpg"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_usage_is_exit_2_with_usage(arguments, message, capfd, monkeypatch):
    code, stdout, stderr = call(capfd, monkeypatch, *arguments)
    assert code == 2
    assert stdout == ""
    assert "Usage: pulid-extract" in stderr
    assert message in stderr


def test_what_cannot_be_done_is_exit_1_with_one_line(tmp_path, capfd, monkeypatch):
    portrait = tmp_path / "me.png"
    portrait.write_bytes(png(picture(CORNER)))
    given = ["--portrait", str(portrait)]
    (tmp_path / "empty").mkdir()
    (tmp_path / "half.pulidembd").symlink_to(tmp_path / "nowhere" / "x")
    cases = [
        ([*given, "-o", str(tmp_path / "no" / "x.pulidembd")], "cannot be written"),
        ([*given, "-o", str(tmp_path)], "is a folder"),
        ([*given, "-o", str(portrait)], "would overwrite an input"),
        (["--portrait", str(tmp_path / "none.jpg"), "-o", str(tmp_path / "x")], "no such file"),
        (["--portrait", str(tmp_path / "empty"), "-o", str(tmp_path / "x")], "holds no picture"),
        (
            [*given, "-o", str(tmp_path / "x"), "--models-dir", str(tmp_path / "none")],
            "does not exist",
        ),
        (
            [*given, "-o", str(tmp_path / "x"), "--antelopev2", str(tmp_path / "none")],
            "no such file",
        ),
        (
            [
                *given,
                "-o",
                str(tmp_path / "x"),
                *models(),
                "--face-box",
                "9,9,640,9",
            ],
            "reaches outside the portrait, which is 640x640",
        ),
    ]
    for arguments, message in cases:
        code, stdout, stderr = call(capfd, monkeypatch, *arguments)
        errors = [line for line in stderr.splitlines() if line.startswith("pulid-extract: error: ")]
        assert (code, stdout, len(errors)) == (1, "", 1), stderr
        assert message in errors[0]
        assert "Traceback" not in stderr
    assert not (tmp_path / "x").exists()
    assert portrait.read_bytes() == png(picture(CORNER))


def test_options_before_a_subcommand_are_not_dropped(capfd, monkeypatch):
    """An option in front of a sub-command's name must not vanish."""
    code, stdout, stderr = call(capfd, monkeypatch, "--out", "x", "faces", "a.jpg")
    assert (code, stdout) == (2, "")
    assert "--out stands before 'faces'" in stderr


def test_interrupt_and_broken_pipe_show_no_traceback(capfd, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupt)
    assert call(capfd, monkeypatch)[0] == 130
    script = (
        f"{sys.executable} -c 'from pulid_extract import cli; "
        "cli.console.write_result(bytes(10**6))' | true"
    )
    shell = "set -o pipefail; " + script.replace(
        "cli.console.w", "cli.app=lambda **k: cli.console.w"
    ).replace("**6))", "**6)); cli.main()")
    bash = shutil.which("bash") or "/bin/bash"
    ended = subprocess.run([bash, "-c", shell], capture_output=True, cwd=ROOT, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr == b""


def test_help_is_instant_and_torch_stays_out():
    check = (
        "import sys, pulid_extract.cli; print([m for m in "
        "('torch','numpy','cv2','PIL','insightface','rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, cwd=ROOT, timeout=60)
    assert done.stdout.strip() == b"[]", done.stderr.decode()


def test_the_version_is_one_number(capfd, monkeypatch):
    import tomllib

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
    assert call(capfd, monkeypatch, "--version")[:2] == (0, f"pulid-extract {__version__}\n")


def test_golden_reader_agrees(tmp_path):
    """What the command writes is what the format's reader reads: tokens survive the trip within
    half precision.
    """
    from pulid_extract import encode_embedding

    one = identity(CORNER)
    again = decode_embedding(encode_embedding(one.tokens))
    assert np.abs(again.tokens - one.tokens).max() <= np.abs(one.tokens).max() * 2**-11
