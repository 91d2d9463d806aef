"""The header of a safetensors file, read without its tensors, and checked: whoever takes what is
here need not ask again of what type it is.

Knows no model. What the safetensors library itself refuses is refused here, before anything has
been made of it, and names that stand twice, which it reads as the last one.

Source: huggingface/safetensors README (format) and safetensors/src/tensor.rs (0.8: `validate`,
`Dtype`, MAX_HEADER_SIZE).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from pulid_extract.shared.json_text import read_object

# of a header; a thousand tensors take 100 KB, and the library itself takes 100 MB
MAX_HEADER_BYTES = 32 << 20
# the library's types -> bits of one number
BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8"), 8),
    **dict.fromkeys(("F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
# one that this version does not know is shown by its name, and refused by whoever would load it
TYPE_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,31}")
MAX_AXES = 8
# of one axis: more than any model has, and no product of eight of them fits a file
MAX_LENGTH = 2**31 - 1
ENTRY = ("dtype", "shape", "data_offsets")


@dataclass(frozen=True)
class SafetensorsFile:
    """What a header says."""

    # name -> (type, shape)
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    # texts by name
    metadata: Mapping[str, str]


class SizeMismatch(ValueError):
    """A file that is cut off, or goes on behind its last tensor."""

    def __init__(self, message: str, file: SafetensorsFile | None = None):
        super().__init__(message)
        # what the header says, if it is whole
        self.file = file


def read_safetensors(file: BinaryIO, size: int) -> SafetensorsFile:
    """Read the header of an open file of `size` bytes. Raises SizeMismatch, and ValueError for any
    other way in which it is not one; both with the reason.
    """
    file.seek(0)
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        raise SizeMismatch(
            f"the header claims {length} bytes, the file has {size}; it is truncated or not a "
            "safetensors file"
        )
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"it has {length} bytes, more than {MAX_HEADER_BYTES >> 20} MiB")
    entries = read_object(file.read(length))
    metadata = _metadata(entries.pop("__metadata__", None))
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    places = []
    for name, entry in entries.items():
        kind, shape, begin, end = _entry(name, entry)
        tensors[name] = kind, shape
        places.append((begin, end, name))
    end = _end(places)
    if 8 + length + end != size:
        what = "truncated" if 8 + length + end > size else "longer than its header says"
        message = f"{what} ({size} bytes, the header needs {8 + length + end})"
        raise SizeMismatch(message, SafetensorsFile(tensors, metadata))
    return SafetensorsFile(tensors, metadata)


def _metadata(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("its __metadata__ is not an object of texts")
    return value


def _entry(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """(type, shape, begin, end) of a tensor, its bytes counted from the end of the header."""
    if not isinstance(entry, dict) or not all(key in entry for key in ENTRY):
        raise ValueError(f"{name[:80]} has no {', '.join(ENTRY)}")
    kind, shape, offsets = (entry[key] for key in ENTRY)
    if not isinstance(kind, str) or not TYPE_NAME.fullmatch(kind):
        raise ValueError(f"the type of {name[:80]} is {str(kind)[:40]!r}")
    if not _are_counts(shape, MAX_LENGTH) or len(shape) > MAX_AXES:
        raise ValueError(f"the shape of {name[:80]} is {str(shape)[:80]}")
    if not _are_counts(offsets, 2**63) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"the offsets of {name[:80]} are {str(offsets)[:80]}")
    begin, end = offsets
    if kind in BITS and math.prod(shape) * BITS[kind] != (end - begin) * 8:
        raise ValueError(
            f"{name[:80]} is {'x'.join(map(str, shape)) or 'one number'} of {kind} in "
            f"{end - begin} bytes"
        )
    return kind, tuple(shape), begin, end


def _are_counts(values: Any, most: int) -> bool:
    # True and False are integers of Python's, and not of JSON's
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value <= most for value in values
    )


def _end(places: list[tuple[int, int, str]]) -> int:
    """Where the last tensor ends. Raises ValueError for tensors that overlap or leave a gap."""
    at = 0
    for begin, end, name in sorted(places):
        if begin != at:
            raise ValueError(f"{name[:80]} starts at byte {begin}, expected {at}")
        at = end
    return at
