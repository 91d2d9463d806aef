"""Colour profiles as photographs carry them, written by hand; and what a colour in one of them is
in sRGB, by the textbook.

Source: ICC.1:2001-04 (header, tags of a three-component matrix profile).
"""

from __future__ import annotations

import struct

import numpy as np

# columns: red, green, blue in XYZ of D50, as Apple's "Display P3" and HP's "sRGB IEC61966-2.1" have
# them
DISPLAY_P3 = np.array(
    [
        [0.515121, 0.291977, 0.157104],
        [0.241196, 0.692245, 0.066574],
        [-0.001053, 0.041885, 0.784073],
    ]
)
SRGB = np.array(
    [
        [0.436066, 0.385147, 0.143066],
        [0.222488, 0.716873, 0.060608],
        [0.013916, 0.097076, 0.714096],
    ]
)
D50 = (0.9642, 1.0, 0.8249)
GAMMA = 2.2


def matrix_profile(primaries: np.ndarray, name: str = "wide", padding: int = 0) -> bytes:
    """A display profile of these primaries and gamma 2.2. padding: bytes of a tag nobody reads."""
    text = name.encode() + b"\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)
    curve = b"curv" + bytes(4) + struct.pack(">IHH", 1, round(GAMMA * 256), 0)
    tags = {
        b"desc": description,
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": _xyz(D50),
        b"rXYZ": _xyz(primaries[:, 0]),
        b"gXYZ": _xyz(primaries[:, 1]),
        b"bXYZ": _xyz(primaries[:, 2]),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    if padding:
        tags[b"pad "] = b"text" + bytes(4) + np.random.default_rng(0).bytes(padding)
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += struct.pack(">4sII", tag, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(
        ">I4s4s4s4s4s12s4s4sI4s4sQI12s4s",
        start + len(body),
        bytes(4),
        b"\x02\x40\0\0",
        b"mntr",
        b"RGB ",
        b"XYZ ",
        struct.pack(">6H", 2020, 1, 1, 0, 0, 0),
        b"acsp",
        bytes(4),
        0,
        bytes(4),
        bytes(4),
        0,
        0,
        _xyz(D50)[8:],
        bytes(4),
    )
    return header.ljust(128, b"\0") + table + body


def in_srgb(primaries: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """uint8 (N, 3) of a `matrix_profile` -> uint8 of sRGB, colours outside it clipped."""
    linear = (colours / 255) ** GAMMA
    wanted = np.clip(linear @ primaries.T @ np.linalg.inv(SRGB).T, 0, 1)
    curved = np.where(wanted <= 0.0031308, wanted * 12.92, 1.055 * wanted ** (1 / 2.4) - 0.055)
    return (curved * 255).round().astype(np.uint8)


def _xyz(values) -> bytes:
    fixed = [round(float(value) * 65536) for value in values]
    return b"XYZ " + bytes(4) + struct.pack(">3i", *fixed)
