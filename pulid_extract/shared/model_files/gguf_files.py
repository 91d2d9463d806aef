"""The header of a GGUF file, read without its tensors: key-values, and where each tensor lies.

gguf-py's reader makes numpy arrays of every element of every array, ten seconds for a T5 with its
vocabulary. Counts and lengths are checked against what any model has and what the file holds,
before anything is made of them. Knows no model.

Source: ggml docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_AXES = 4  # GGML_MAX_DIMS
# Flux has 800 tensors and 30 values; a T5's vocabulary has 32,128 pieces, 1 MB of text
MAX_HEADER_BYTES = 64 << 20
MAX_TENSORS, MAX_VALUES, MAX_ITEMS = 100_000, 10_000, 1_000_000
MAX_NAME_BYTES = 1 << 16
STRING, ARRAY = 8, 9
# type number -> how numpy spells a number of it, little-endian
NUMBERS = {
    0: "u1",
    1: "i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


@dataclass(frozen=True)
class GgufTensor:
    """One tensor, not read."""

    # ggml's type name
    kind: str
    # row-major
    shape: tuple[int, ...]
    # of its bytes in the file
    offset: int
    size: int


@dataclass(frozen=True)
class GgufFile:
    """What a header says."""

    # the key-values; arrays among them only if they were asked for
    values: dict[str, Any]
    # by name, in the file's order
    tensors: dict[str, GgufTensor]


class TruncatedGguf(ValueError):
    """A file whose header is whole and whose tensors are not."""

    def __init__(self, message: str, file: GgufFile):
        super().__init__(message)
        # what the header says
        self.file = file


def read_gguf(path: Path, arrays: bool = False) -> GgufFile:
    """Read the header of a GGUF file. Raises ValueError for one that is damaged, truncated
    (TruncatedGguf, if its header is whole) or of another version.

    arrays: keep arrays too, strings as a list, numbers as numpy.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        cursor = _Cursor(data)
        try:
            if cursor.take(4) != MAGIC:
                raise ValueError("not a GGUF")
            version = cursor.number("<I")
            if version not in VERSIONS:
                raise ValueError(
                    f"version {version}, expected {VERSIONS[0]} or {VERSIONS[1]}, little-endian"
                )
            tensor_count = cursor.count("<Q", MAX_TENSORS, "tensors")
            value_count = cursor.count("<Q", MAX_VALUES, "values")
            pairs = [cursor.pair(arrays) for _ in range(value_count)]
            entries = [cursor.tensor() for _ in range(tensor_count)]
        except (struct.error, UnicodeDecodeError) as error:
            raise ValueError(f"its header breaks off or is not text ({error})") from None
        values = dict(pairs)
        if len(values) != len(pairs):
            raise ValueError("two values of one name")
        alignment = values.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment < 8 or alignment % 8:
            raise ValueError(f"alignment {alignment!r}, expected a multiple of 8")
        start = -(-cursor.at // alignment) * alignment
        tensors = {
            name: GgufTensor(kind, shape, start + offset, size)
            for name, kind, shape, offset, size in entries
        }
        if len(tensors) != len(entries):
            raise ValueError("two tensors of one name")
        stated = {name: value for name, value in values.items() if value is not None}
        whole = GgufFile(stated, tensors)
        end = start
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
            if tensor.offset < end:
                raise ValueError(f"{name} starts at byte {tensor.offset}, inside another tensor")
            end = tensor.offset + tensor.size
            if tensor.offset % alignment:
                raise ValueError(
                    f"{name} starts at byte {tensor.offset}, not a multiple of {alignment}"
                )
        if end > len(data):
            raise TruncatedGguf(f"{name} ends at byte {end} of {len(data)}", whole)
    return whole


class _Cursor:
    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise ValueError(f"its header needs byte {self.at + count} of {len(self.data)}")
        if self.at + count > MAX_HEADER_BYTES:
            raise ValueError(f"its header is longer than {MAX_HEADER_BYTES >> 20} MiB")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self, form: str, most: int, of: str) -> int:
        count = self.number(form)
        if count > most:
            raise ValueError(f"it claims {count} {of}, more than {most}")
        return count

    def text(self) -> str:
        return self.take(self.number("<Q")).decode()

    def name(self) -> str:
        length = self.count("<Q", MAX_NAME_BYTES, "bytes of one name")
        return self.take(length).decode()

    def pair(self, arrays: bool) -> tuple[str, Any]:
        return self.name(), self.value(self.number("<I"), arrays)

    def value(self, kind: int, arrays: bool) -> Any:
        """One value; an array that is not wanted is None."""
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return self.numbers(kind, 1)[0].item()
        kind = self.number("<I")
        count = self.count("<Q", MAX_ITEMS, "items of one array")
        if kind == STRING:
            if arrays:
                return [self.text() for _ in range(count)]
            for _ in range(count):
                self.take(self.number("<Q"))
            return None
        numbers = self.numbers(kind, count)
        return numbers if arrays else None

    def numbers(self, kind: int, count: int) -> np.ndarray:
        if kind not in NUMBERS:
            raise ValueError(f"a value of unknown type {kind}")
        import numpy as np  # not for --help

        dtype = np.dtype(NUMBERS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)

    def tensor(self) -> tuple[str, str, tuple[int, ...], int, int]:
        """Name, type name, row-major shape, offset in the data, bytes."""
        name, axes = self.name(), self.number("<I")
        if not 0 < axes <= MAX_AXES:
            raise ValueError(f"{name} has {axes} axes")
        shape = tuple(reversed([self.number("<Q") for _ in range(axes)]))
        if 0 in shape:
            raise ValueError(f"{name} is {'x'.join(map(str, shape))}: it holds no number")
        kind = _type_name(self.number("<I"))
        offset = self.number("<Q")
        block, _ = ggml_block(kind)
        if shape[-1] % block:
            raise ValueError(
                f"{name} has rows of {shape[-1]} numbers, not a multiple of {kind}'s {block}"
            )
        return name, kind, shape, offset, ggml_bytes(kind, math.prod(shape))


def ggml_block(kind: str) -> tuple[int, int]:
    """(numbers, bytes) of one block of a ggml type. Raises KeyError for an unknown name."""
    import gguf  # not for --help

    return gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]


def ggml_bytes(kind: str, count: int) -> int:
    """Bytes of `count` numbers of a ggml type. Raises KeyError for an unknown name."""
    numbers, size = ggml_block(kind)
    return count // numbers * size


def _type_name(number: int) -> str:
    import gguf

    return gguf.GGMLQuantizationType(number).name
