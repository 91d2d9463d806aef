"""A stand-in for the program that scores, for how it can answer and fail. The fixture
`fake` puts it on the PATH.
"""

from __future__ import annotations

import sys

LINE = {
    "picture": "a.png",
    "status": "ok",
    "likeness": 0.5,
    "best": 0.5,
    "cosines": [0.5],
    "stranger": None,
    "truth": None,
    "copy_paste": None,
    "prompt_score": None,
    "faces": 1,
    "face": 0,
    "box": [1, 2, 3, 4],
    "pose": None,
    "error": None,
    "recognizers": [
        {"name": "glintr100.onnx", "sha256": "ab" * 32, "own": True, "likeness": 0.5},
    ],
    "prompt_judge": None,
}
# one face, whoever is looked for
FACE_BOX = (20, 10, 24, 24)
# as a worker: that face in every picture
FINDS_A_FACE = f"""
if sys.argv[1] == "worker":
    for text in sys.stdin:
        face = {{"box": {list(FACE_BOX)}, "score": 0.9, "likeness": {{}}}}
        print(json.dumps({{"status": "done", "faces": [face]}}), flush=True)
    sys.exit()
"""
HEAD = f"""\
#!{sys.executable}
import json, os, signal, sys
line = {LINE!r}
pictures = sys.argv[sys.argv.index("--") + 1:] if "--" in sys.argv else []
def say(text): print(text, file=sys.stderr, flush=True)
def tell(**more): print(json.dumps(line | more), flush=True)
def by_each(*values):
    pairs = zip(line["recognizers"], values)
    return [dict(network, likeness=value) for network, value in pairs]
def likeness(value, **more):
    tell(likeness=value, cosines=[value], recognizers=by_each(value), **more)
def faceless(**more):
    nothing = dict(likeness=None, cosines=[], faces=0, box=None)
    tell(status="no face", error="no face found", **nothing, **more)
# prompts cannot be judged, unless a test says otherwise
def refuse_prompts():
    if any(word.startswith("--prompts=") for word in sys.argv):
        say("pulid-extract: error: eva.pt: holds no text tower"); sys.exit(1)
"""
