"""The embedding cache on the command line: a portrait that was seen before, and no cache at all."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support.models.portrait_models import models_folder
from support.paths import ROOT
from support.pictures.coloured_faces import GREEN, RED, picture
from support.programs.commands import run_plainly as run

from pulid_extract.files import file_hashes


@pytest.fixture
def caching(tmp_path, monkeypatch):
    """A cache of this test's own, switched on."""
    folder = tmp_path / "cache"
    monkeypatch.delenv("PULID_NO_CACHE")
    monkeypatch.setenv("PULID_CACHE_DIR", str(folder))
    monkeypatch.setenv("PULID_MODELS_DIR", str(models_folder()))
    monkeypatch.setattr(file_hashes, "YOUNG", -1.0)
    return folder


def save(path: Path, *patches) -> Path:
    buffer = io.BytesIO()
    Image.fromarray(picture(*patches)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    return path


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it fails
from pulid_extract import cli
sys.argv = ["pulid-extract", *sys.argv[1:]]
cli.main()
assert not {"cv2", "insightface", "onnxruntime", "timm"} & set(sys.modules)
"""


def test_the_same_portrait_again_needs_no_network_and_says_the_same(
    caching, tmp_path, capfd, monkeypatch
):
    me, out = (
        save(tmp_path / "myfacename.png", (2, 2, RED), (9, 10, GREEN)),
        tmp_path / "out.pulidembd",
    )
    code, first, said = run(capfd, monkeypatch, "--portrait", me, "-o", out, "--json")
    assert code == 0, said
    made = out.read_bytes()
    out.unlink()
    again = [sys.executable, "-c", WITHOUT_TORCH, "--portrait", str(me), "-o", str(out), "--json"]
    done = subprocess.run(again, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == made
    before, after = json.loads(first), json.loads(done.stdout)
    assert (before.pop("cached"), after.pop("cached")) == (False, True)
    assert before == after
    warnings = [line for line in said.splitlines() if "quality" in line or "warning" in line]
    assert warnings
    assert all(line in done.stderr for line in warnings)
    assert "taken from the embedding cache" in done.stderr

    # other options, another portrait, --no-cache and pictures make it anew: without torch they
    # cannot
    for more in (
        ["--dtype", "f32"],
        ["--no-cache"],
        ["--face-order", "right"],
        ["--crop-image", str(tmp_path / "c.png")],
    ):
        assert (
            subprocess.run([*again, *more], capture_output=True, text=True, cwd=ROOT).returncode
            != 0
        ), more
    strict = subprocess.run([*again, "--strict"], capture_output=True, text=True, cwd=ROOT)
    assert strict.returncode == 1
    assert "--strict: " in strict.stderr

    # nothing on disk names the file or the folder, or holds the embedding
    everything = b"".join(path.read_bytes() for path in (caching / "embeddings").iterdir())
    assert everything
    for word in (
        b"myfacename",
        str(tmp_path).encode(),
        made[-64:],
        hashlib.sha256(me.read_bytes()).hexdigest().encode(),
    ):
        assert word not in everything
    assert b"myfacename" not in made
    assert str(tmp_path).encode() not in made

    code, listed, said = run(capfd, monkeypatch, "cache", "--json")
    assert code == 0
    assert [json.loads(line)["bytes"] for line in listed.splitlines()] == [len(everything)]
    assert str(caching) in said
    code, listed, _ = run(capfd, monkeypatch, "cache")
    assert len(listed.splitlines()) == 1
    code, cleared, _ = run(capfd, monkeypatch, "cache", "clear", "--json")
    assert json.loads(cleared)["deleted"] == 1
    assert [path for path in caching.rglob("*") if path.is_file()] == []
    assert run(capfd, monkeypatch, "cache")[1] == ""


def test_off_means_off(caching, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PULID_NO_CACHE", "1")
    me = save(tmp_path / "me.png", (2, 2, RED))
    assert run(capfd, monkeypatch, "--portrait", me, "-o", tmp_path / "out.pulidembd")[0] == 0
    assert not caching.exists()
