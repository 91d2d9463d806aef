"""A stand-in for the program that scores, for how it can answer and fail. The fixture
`fake` puts it on the PATH.
"""

from __future__ import annotations

import sys

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
