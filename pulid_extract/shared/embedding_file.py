"""The .pulidembd format: encode, decode, check. The normative text is docs/pulidembd.md.

The file is a gguf v3, little-endian. The reader below is our own because the file may come from
anywhere: it checks every count and size of the header against the bytes that are there before it
allocates anything, which gguf-py's reader does not. Knows nothing of torch, models or command
lines.

Layout source: ggml docs/gguf.md (ggml-org/ggml); key and tensor names: stable-diffusion.cpp
97d29908, docs/pulid.md.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pulid_extract.shared.errors import EmbeddingError

ARCHITECTURE = "pulid"
# of the keys that are the toolkit's own
PREFIX = "pulid."
VERSION = 1
MAX_TOKENS = 1024
# 1,024 float32 tokens of width 2048 with an unconditional twin are 16 MiB; this is generous
MAX_FILE_BYTES = 256 << 20
MAX_KEYS = 1024
ALIGNMENT = 32

TOKENS, UNCOND = "pulid_id", "pulid_uncond"
# of the provenance: SHA-256 of the network whose face vector the tokens were made of
RECOGNIZER = "recognizer.sha256"

# ggml tensor types: name -> (type number, bytes per element)
DTYPES = {"f32": (0, 4), "f16": (1, 2), "bf16": (30, 2)}
_DTYPE_NAMES = {number: name for name, (number, _) in DTYPES.items()}

# gguf value types that have a fixed width: number -> struct code
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_UINT32, _STRING, _ARRAY = 4, 8, 9


@dataclass(frozen=True)
class Embedding:
    """One identity."""

    # (N, C) float32, 1 <= N <= 1024, finite; (32, 2048) for one portrait and the public PuLID file
    tokens: np.ndarray
    # (M, C) float32, or None: the tokens of an all-zero condition, for the negative branch of true
    # CFG
    uncond: np.ndarray | None = None
    # how the tensors were stored: "f16", "bf16" or "f32"
    dtype: str = "f16"
    # texts of the optional `pulid.*` keys
    provenance: Mapping[str, str] = field(default_factory=dict)
    # of the whole file as it was read or written, lower-case hex: what `sha256sum` prints for it
    sha256: str = ""
    # where it was read from, for messages
    source: str = "embedding"

    @property
    def recognizer(self) -> str | None:
        """SHA-256 of the network whose face vector the tokens were made of; None for a file that
        does not say.
        """
        return self.provenance.get(RECOGNIZER)


def encode_embedding(
    tokens: np.ndarray,
    uncond: np.ndarray | None = None,
    *,
    dtype: str = "f16",
    provenance: Mapping[str, str] | None = None,
) -> bytes:
    """The bytes of a .pulidembd. The same arguments give the same bytes.

    tokens, uncond: (N, C) and (M, C), any float dtype, stored as `dtype` ("f16", "bf16" or "f32").
    provenance: names without the `pulid.` prefix -> strings; written in sorted order. Raises
    EmbeddingError for a wrong rank or token count, and for values that are not finite once stored.
    """
    if dtype not in DTYPES:
        raise EmbeddingError(f"embedding dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    arrays = {TOKENS: np.asarray(tokens)}
    if uncond is not None:
        arrays[UNCOND] = np.asarray(uncond)
    stored = {}
    for name, array in arrays.items():
        _check_shape("embedding", name, array.shape[::-1])
        with np.errstate(over="ignore"):
            stored[name] = _narrow(array, dtype)
        _check_finite("embedding", name, _widen(stored[name], array.shape, dtype))
    if uncond is not None:
        _check_widths("embedding", arrays)

    keys: list[tuple[str, str | int]] = [
        ("general.architecture", ARCHITECTURE),
        ("pulid.version", VERSION),
    ]
    for name, text in sorted((provenance or {}).items()):
        keys.append((f"{PREFIX}{name}", text))
    header = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, len(arrays), len(keys)))
    for key, value in keys:
        header += _string(key)
        if isinstance(value, int):
            header += struct.pack("<II", _UINT32, value)
        else:
            header += struct.pack("<I", _STRING) + _string(value)
    offset = 0
    for name, array in arrays.items():
        rows, columns = array.shape
        header += _string(name) + struct.pack("<IQQIQ", 2, columns, rows, DTYPES[dtype][0], offset)
        offset += _padded(len(stored[name]))
    body = b"".join(data.ljust(_padded(len(data)), b"\0") for data in stored.values())
    return bytes(header).ljust(_padded(len(header)), b"\0") + body


def read_embedding(path: str | Path) -> Embedding:
    """Read a .pulidembd; "-" reads standard input. Raises EmbeddingError, naming the file, for
    anything that breaks the format.
    """
    where = "standard input" if str(path) == "-" else str(path)
    try:
        if str(path) == "-":
            if sys.stdin is None:
                raise EmbeddingError(f"{where}: is closed; pipe a .pulidembd in, or name a file")
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(
                    min(MAX_FILE_BYTES, os.fstat(file.fileno()).st_size or MAX_FILE_BYTES) + 1
                )
    except FileNotFoundError:
        raise EmbeddingError(
            f"{where}: no such file; make it with: pulid-extract --portrait me.jpg --out {where}"
        ) from None
    except OSError as error:
        raise EmbeddingError(f"{where}: cannot be read ({error.strerror or error})") from None
    return decode_embedding(data, where)


def decode_embedding(data: bytes, where: str = "embedding") -> Embedding:
    """Check and decode the bytes of a .pulidembd. `where` names the source in messages. Raises
    EmbeddingError.
    """
    if len(data) > MAX_FILE_BYTES:
        raise EmbeddingError(
            f"{where}: larger than {MAX_FILE_BYTES >> 20} MiB; a .pulidembd is about 131 KB"
        )
    if not data:
        raise EmbeddingError(
            f"{where}: is empty; did the command that writes it fail? Make it with pulid-extract"
        )
    if data.lstrip()[:1] == b"<":
        raise EmbeddingError(
            f"{where}: is an HTML page, not a .pulidembd; download the file itself"
        )
    if data[:4] != b"GGUF":
        raise EmbeddingError(
            f"{where}: not a gguf file (it does not start with 'GGUF'); make it with pulid-extract"
        )
    cursor = _Cursor(data, where)
    cursor.take(4)
    (gguf_version,) = cursor.unpack("<I")
    if gguf_version != 3:
        big = " (big-endian?)" if gguf_version == 3 << 24 else ""
        raise EmbeddingError(
            f"{where}: gguf version {gguf_version}{big}, expected 3, little-endian"
        )
    tensor_count, key_count = cursor.unpack("<QQ")
    if key_count > MAX_KEYS or tensor_count > MAX_KEYS:
        raise EmbeddingError(
            f"{where}: header claims {key_count} keys and {tensor_count} tensors; not a .pulidembd"
        )

    keys: dict[str, Any] = {}
    for _ in range(key_count):
        name = cursor.string()
        if name in keys:
            raise EmbeddingError(f"{where}: key {name!r} stands twice")
        keys[name] = cursor.value()
    _check_keys(where, keys)

    infos: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(tensor_count):
        name = cursor.string()
        (rank,) = cursor.unpack("<I")
        if rank > 4:
            raise EmbeddingError(f"{where}: tensor {name!r} has rank {rank}, gguf allows 4")
        shape = cursor.unpack(f"<{rank}Q")
        number, offset = cursor.unpack("<IQ")
        if name in infos:
            raise EmbeddingError(f"{where}: tensor {name!r} stands twice")
        infos[name] = (shape, number, offset)
    if TOKENS not in infos:
        names = ", ".join(sorted(infos)) or "none"
        raise EmbeddingError(
            f"{where}: tensor '{TOKENS}' is missing (tensors: {names}); make it with pulid-extract"
        )

    alignment = keys.get("general.alignment", ALIGNMENT)
    if (
        not isinstance(alignment, int)
        or isinstance(alignment, bool)
        or alignment < 1
        or alignment & (alignment - 1)
    ):
        raise EmbeddingError(
            f"{where}: general.alignment is {alignment!r}, expected a power of two"
        )
    start = _padded(cursor.position, alignment)
    arrays = {
        name: _tensor(data, where, name, start, *infos[name])
        for name in (TOKENS, UNCOND)
        if name in infos
    }
    _check_widths(where, arrays)
    return Embedding(
        tokens=arrays[TOKENS],
        uncond=arrays.get(UNCOND),
        dtype=_DTYPE_NAMES[infos[TOKENS][1]],
        provenance=_provenance(keys),
        sha256=hashlib.sha256(data).hexdigest(),
        source=where,
    )


def _provenance(keys: Mapping[str, Any]) -> dict[str, str]:
    """The texts of the `pulid.*` keys, by what follows the prefix."""
    provenance = {}
    for key, value in keys.items():
        if key.startswith(PREFIX) and isinstance(value, str):
            provenance[key.removeprefix(PREFIX)] = value
    return provenance


def _check_keys(where: str, keys: Mapping[str, Any]) -> None:
    architecture = keys.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise EmbeddingError(
            f"{where}: general.architecture is {architecture!r}, expected {ARCHITECTURE!r}; this "
            "gguf is not an identity file"
        )
    version = keys.get("pulid.version")
    if isinstance(version, bool) or version != VERSION:
        raise EmbeddingError(
            f"{where}: pulid.version is {version!r}, this program reads {VERSION}; extract it "
            "again or update"
        )


def _tensor(
    data: bytes, where: str, name: str, start: int, shape: tuple[int, ...], number: int, offset: int
) -> np.ndarray:
    """The (rows, columns) float32 array of one tensor; `shape` is in ggml order, fastest axis
    first.
    """
    _check_shape(where, name, shape)
    dtype = _DTYPE_NAMES.get(number)
    if dtype is None:
        raise EmbeddingError(
            f"{where}: tensor '{name}' has ggml type {number}, expected F16, BF16 or F32"
        )
    columns, rows = shape
    size = rows * columns * DTYPES[dtype][1]
    begin = start + offset
    if begin + size > len(data):
        raise EmbeddingError(
            f"{where}: tensor '{name}' needs bytes {begin} to {begin + size}, the file has "
            f"{len(data)}; it is truncated"
        )
    array = _widen(data[begin : begin + size], (rows, columns), dtype)
    _check_finite(where, name, array)
    return array


def _check_shape(where: str, name: str, shape: tuple[int, ...]) -> None:
    if len(shape) != 2:
        raise EmbeddingError(
            f"{where}: tensor '{name}' has rank {len(shape)}, expected 2 (tokens x width)"
        )
    columns, rows = shape
    if not 1 <= rows <= MAX_TOKENS:
        raise EmbeddingError(
            f"{where}: tensor '{name}' has {rows} tokens, expected 1 to {MAX_TOKENS}"
        )
    if columns < 1:
        raise EmbeddingError(f"{where}: tensor '{name}' has width {columns}, expected at least 1")


def _check_widths(where: str, arrays: Mapping[str, np.ndarray]) -> None:
    if UNCOND in arrays and arrays[UNCOND].shape[1] != arrays[TOKENS].shape[1]:
        raise EmbeddingError(
            f"{where}: '{UNCOND}' has width {arrays[UNCOND].shape[1]}, '{TOKENS}' has "
            f"{arrays[TOKENS].shape[1]}; they must agree"
        )


def _check_finite(where: str, name: str, array: np.ndarray) -> None:
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise EmbeddingError(
            f"{where}: tensor '{name}' has {bad} values that are NaN or infinite; extract it again"
        )


def _narrow(array: np.ndarray, dtype: str) -> bytes:
    wide = np.ascontiguousarray(array, np.float32)
    if dtype == "f32":
        return wide.astype("<f4").tobytes()
    if dtype == "f16":
        return wide.astype("<f2").tobytes()
    bits = wide.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")  # to nearest, ties to even
    return np.where(np.isnan(wide), np.uint16(0x7FC0), rounded).astype("<u2").tobytes()


def _widen(data: bytes, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype == "bf16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return np.frombuffer(data, "<f2" if dtype == "f16" else "<f4").astype(np.float32).reshape(shape)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _padded(size: int, alignment: int = ALIGNMENT) -> int:
    return -(-size // alignment) * alignment


class _Cursor:
    """Reads forward through the header; every read is checked against the bytes that are there."""

    def __init__(self, data: bytes, where: str):
        self.data, self.where, self.position = data, where, 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.position:
            raise EmbeddingError(
                f"{self.where}: ends inside the gguf header; it is truncated or damaged"
            )
        self.position += count
        return self.data[self.position - count : self.position]

    def unpack(self, code: str) -> tuple[Any, ...]:
        return struct.unpack(code, self.take(struct.calcsize(code)))

    def string(self) -> str:
        (length,) = self.unpack("<Q")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise EmbeddingError(
                f"{self.where}: a string of the gguf header is not UTF-8"
            ) from None

    def value(self, kind: int | None = None, depth: int = 0) -> Any:
        """One value of any gguf type. Arrays are walked, so that what follows is found, and
        returned as None.
        """
        if kind is None:
            (kind,) = self.unpack("<I")
        if kind in _SCALARS:
            return self.unpack(_SCALARS[kind])[0]
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY and depth < 4:
            item, count = self.unpack("<IQ")
            if item in _SCALARS:
                self.take(struct.calcsize(_SCALARS[item]) * count)
                return None
            # each turn takes at least eight bytes, so a false count ends at the end of the file
            for _ in range(count):
                self.value(item, depth + 1)
            return None
        raise EmbeddingError(f"{self.where}: gguf value type {kind} is unknown or nested too deep")
