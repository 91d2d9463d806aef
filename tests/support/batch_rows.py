"""A manifest with a row of every kind, its single commands, and how far two pictures are apart."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image


def manifest(path, *rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def distance(a, b) -> int:
    """The largest difference of any channel, of 255."""
    return int(np.abs(pixels(a).astype(int) - pixels(b)).max())


SIZE = {"width": 64, "height": 48}
ROWS = [
    {
        "prompt": "a cat",
        "seed": 1,
        **SIZE,
        "pulid_id_embedding": "people/ada.pulidembd",
        "output": "one.png",
    },
    {"prompt": "a dog", "seed": 2, "width": 80, "height": 48, "output": "two.png"},
    {
        "prompt": "a cat",
        "seed": 3,
        **SIZE,
        "pulid-id-embedding": "people/bob.pulidembd",
        "pulid-id-weight": 0.7,
        "output": "three.png",
    },
    {
        "prompt": "a bird",
        "seed": 4,
        **SIZE,
        "identity": ["people/ada.pulidembd", "people/bob.pulidembd"],
        "output": "four.png",
    },
    {
        "prompt": "a cat",
        "seed": 5,
        **SIZE,
        "output": "five.webp",
        "id_start_step": 1,
        "pulid_id_embedding": "people/ada.pulidembd",
    },
    {
        "prompt": "a fish",
        "seed": 6,
        **SIZE,
        "output": "six.png",
        "init_img": "start.png",
        "strength": 0.5,
        "steps": 4,
    },
]


def flags_of(row, folder):
    """The single command's flags for a row."""
    for name, value in row.items():
        for one in value if isinstance(value, list) else [value]:
            files = ("pulid_id_embedding", "pulid-id-embedding", "identity", "init_img")
            yield from (f"--{name.replace('_', '-')}", folder / one if name in files else one)
