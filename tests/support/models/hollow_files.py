"""Safetensors files of the public sizes that take no room on the disk."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from seeded import public_layouts

from pulid_generate.files.storage import NUMBER_BYTES

DEV = public_layouts.flux(3072, context=4096, guidance=True)


def hollow(path: Path, entries: dict[str, tuple[str, tuple[int, ...]]]) -> Path:
    """A safetensors file of any size whose numbers take no room on the disk."""
    header, end = {}, 0
    for name, (dtype, shape) in entries.items():
        size = int(np.prod(shape, dtype=np.int64)) * NUMBER_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    data = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(data)) + data)
    with open(path, "r+b") as file:
        file.truncate(8 + len(data) + end)
    return path


def stored(
    layout: public_layouts.Layout, dtype: str, prefix: str = ""
) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {prefix + name: (dtype, shape) for name, (shape, _) in layout.items()}
