"""A stand-in for the program that scores, for how it can answer and fail. Import `fake_fixture`,
the fixture `fake`.
"""

from __future__ import annotations

import os
import sys

import pytest

from pulid_generate.pictures import scorer as likeness

LINE = {
    "picture": "a.png",
    "status": "ok",
    "cosine": 0.5,
    "best": 0.5,
    "cosines": [0.5],
    "stranger": None,
    "faces": 1,
    "face": 0,
    "box": [1, 2, 3, 4],
    "error": None,
    "recognizer": {"name": "glintr100.onnx", "sha256": "ab" * 32},
}
HEAD = f"""\
#!{sys.executable}
import json, os, signal, sys
line = {LINE!r}
pictures = sys.argv[sys.argv.index("--") + 1:]
def say(text): print(text, file=sys.stderr, flush=True)
def tell(**more): print(json.dumps(line | more), flush=True)
def cosine(value): tell(cosine=value, cosines=[value])
def faceless(): tell(status="no face", cosine=None, cosines=[], faces=0, box=None, error="no face found")
"""


@pytest.fixture(name="fake")
def fake_fixture(tmp_path, monkeypatch):
    """fake("body in Python") stands on the PATH in place of pulid-extract, with the names of
    HEAD.
    """

    def write(body: str) -> None:
        path = tmp_path / "bin" / "pulid-extract"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{HEAD}{body}\n")
        path.chmod(0o755)
        monkeypatch.setattr(likeness, "LIBRARIES", ("no_such_library_anywhere",))
        monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")

    return write
