"""What a model file says about itself before any weight is read. Nothing of a pickle is executed: its strings are listed.

Knows formats, and no model. Formats: safetensors (huggingface/safetensors README), torch zip and legacy pickles (pytorch
torch/serialization.py), gguf (by gguf-py). A folder of ONNX files is one model: insightface's pack.
"""

from __future__ import annotations

import json
import os
import pickletools
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pulid_extract.errors import WeightsError

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself


@dataclass(frozen=True)
class Header:
    """What a file says about itself before any weight is read.

    format: "safetensors", "torch", "gguf" or "onnx folder".
    tensors: name -> (dtype as the file spells it, shape). For "torch" only the names are known (dtype "", shape ());
        for an "onnx folder" the names are those of its .onnx files.
    """

    path: Path
    format: str
    tensors: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.tensors)


def read_header(path: str | Path) -> Header:
    """Read a model file's header. Raises WeightsError for a file that is missing, truncated, or no model file at all."""
    path = Path(path)
    if path.is_dir():
        return Header(path, "onnx folder", {file.name: ("", ()) for file in sorted(path.glob("*.onnx"))})
    try:
        with open(path, "rb") as file:
            start = file.read(64)
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise WeightsError(f"{path}: the file is empty; download it again")
            if start[:4] == b"GGUF":
                return _gguf_header(path)
            # before the pickles: a header length may end in the byte that starts a pickle
            if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
                return _safetensors_header(path, file, size)
            if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
                return Header(path, "torch", dict.fromkeys(_pickle_strings(path, start), ("", ())))
            if start.lstrip()[:1] == b"<":
                raise WeightsError(f"{path}: is an HTML page saved under a model's name; download the file itself")
            if start.startswith(b"version https://git-lfs"):
                raise WeightsError(f"{path}: is a git-lfs pointer, not the file; run 'git lfs pull' or download it")
            if len(start) > 8 and start[8:9] == b"{":
                return _safetensors_header(path, file, size)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from None
    raise WeightsError(f"{path}: not a model file (expected safetensors, a torch .pt/.pth or .gguf)")


def _safetensors_header(path: Path, file, size: int) -> Header:
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise WeightsError(f"{path}: the header claims {length} bytes, the file has {size}; it is truncated or no safetensors")
    try:
        entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        tensors = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise WeightsError(f"{path}: the safetensors header is damaged; download the file again") from None
    if 8 + length + end != size:
        what = "truncated" if 8 + length + end > size else "longer than its header says"
        raise WeightsError(f"{path}: {what} ({size} bytes, the header needs {8 + length + end}); download it again")
    return Header(path, "safetensors", tensors)


def _gguf_header(path: Path) -> Header:
    """Names, type names ("Q4_K", "BF16", ..) and shapes in row-major order, by gguf-py."""
    import gguf

    try:
        tensors = gguf.GGUFReader(path).tensors
        shapes = {
            tensor.name: (tensor.tensor_type.name, tuple(int(axis) for axis in reversed(tensor.shape))) for tensor in tensors
        }
    except Exception as error:  # gguf-py raises whatever numpy makes of damaged bytes
        raise WeightsError(f"{path}: damaged or truncated GGUF file ({error}); download it again") from None
    return Header(path, "gguf", shapes)


def _pickle_strings(path: Path, start: bytes) -> list[str]:
    """All strings of a torch checkpoint's pickles: its keys are among them. Lists opcodes; executes nothing."""
    try:
        if start[:2] == b"PK":
            with zipfile.ZipFile(path) as archive:
                name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
                return _strings_of(archive.read(name))
        strings: list[str] = []
        with open(path, "rb") as file:
            for _ in range(4):  # legacy layout: magic number, protocol, system info, the object itself
                strings += _strings_of(file)
        return strings
    except Exception:  # zipfile, zlib and pickletools raise whatever a damaged byte leads to
        raise WeightsError(f"{path}: damaged or truncated torch checkpoint; download it again") from None


def _strings_of(pickle) -> list[str]:
    return [argument for _, argument, _ in pickletools.genops(pickle) if isinstance(argument, str)]
