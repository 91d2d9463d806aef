"""What a model file says about itself before any weight is read. Nothing of a pickle is executed:
its strings are listed.

Knows formats, and no model. Formats: safetensors (huggingface/safetensors README), torch zip and
legacy pickles (pytorch torch/serialization.py), gguf (gguf_files.py), folders as diffusers and
transformers save them (diffusers pipelines/pipeline_loading_utils.py, transformers
modeling_utils.py: config.json, *.safetensors, *.safetensors.index.json). A folder of ONNX files is
one model: insightface's pack.
"""

from __future__ import annotations

import functools
import os
import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pulid_extract.shared.errors import WeightsError
from pulid_extract.shared.json_text import read_object
from pulid_extract.shared.model_files.gguf_files import GgufFile, TruncatedGguf, read_gguf
from pulid_extract.shared.model_files.safetensors_files import (
    MAX_HEADER_BYTES,
    SizeMismatch,
    read_safetensors,
)

# what makes a folder a diffusers pipeline
PIPELINE_INDEX = "model_index.json"
# folders of a Flux pipeline that hold weights
COMPONENTS = ("transformer", "vae", "text_encoder", "text_encoder_2")
# what file systems take
MAX_NAME_BYTES = 255
# diffusers', transformers'
WEIGHT_STEMS = ("diffusion_pytorch_model", "model")


@dataclass(frozen=True)
class Header:
    """What a file says about itself before any weight is read."""

    path: Path
    # "safetensors", "torch", "gguf", "diffusers folder" or "onnx folder"
    format: str
    # Name -> (dtype as the file spells it, shape). Of "torch" only the names are known (dtype "",
    # shape ()); of an "onnx folder" the names are those of its .onnx files. In a whole diffusers
    # pipeline every name starts with the folder of its component: "vae/decoder.conv_in.weight".
    tensors: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    # What the file says beside its tensors: the key-values of a GGUF but for arrays, safetensors'
    # __metadata__, a folder's config.json (its keys behind the component's folder, as the tensors).
    metadata: Mapping[str, Any] = field(default_factory=dict)
    # Name -> (the file that holds the tensor, its name there), where that is not `path` and the
    # same name.
    shards: Mapping[str, tuple[Path, str]] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        """Of the tensors."""
        return frozenset(self.tensors)

    def place_of(self, name: str) -> tuple[Path, str]:
        """The file that holds a tensor, and its name there."""
        return self.shards.get(name, (self.path, name))


class TruncatedFile(WeightsError):
    """A file whose header is whole and whose tensors are not."""

    def __init__(self, message: str, header: Header):
        super().__init__(message)
        # what the file would have been
        self.header = header


def read_header(path: str | Path) -> Header:
    """Read a model file's header. Raises WeightsError for a file that is missing, truncated
    (TruncatedFile, if its header is whole), or not a model file at all.
    """
    path = Path(path)
    if path.is_dir():
        if is_diffusers_folder(path):
            return _folder_header(path)
        return _onnx_header(path)
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
                raise WeightsError(
                    f"{path}: is an HTML page saved under a model's name; download the file itself"
                )
            if start.startswith(b"version https://git-lfs"):
                raise WeightsError(
                    f"{path}: is a git-lfs pointer, not the file; run 'git lfs pull' or download it"
                )
            if len(start) > 8 and start[8:9] == b"{":
                return _safetensors_header(path, file, size)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from None
    raise WeightsError(
        f"{path}: not a model file (expected safetensors, a torch .pt/.pth or .gguf)"
    )


def _safetensors_header(path: Path, file: BinaryIO, size: int) -> Header:
    try:
        read = read_safetensors(file, size)
    except SizeMismatch as error:
        message = f"{path}: {error}; download it again"
        if error.file is None:
            raise WeightsError(message) from None
        header = Header(path, "safetensors", error.file.tensors, error.file.metadata)
        raise TruncatedFile(message, header) from None
    except ValueError as error:
        raise WeightsError(
            f"{path}: the safetensors header is damaged ({error}); download the file again"
        ) from None
    return Header(path, "safetensors", read.tensors, read.metadata)


def _gguf_header(path: Path) -> Header:
    """Names, type names ("Q4_K", "BF16", ..) and shapes in row-major order."""
    try:
        return _header_of_gguf(path, read_gguf(path))
    except (ValueError, OSError) as error:
        message = f"{path}: damaged or truncated GGUF file ({error}); download it again"
        if isinstance(error, TruncatedGguf):
            raise TruncatedFile(message, _header_of_gguf(path, error.file)) from None
        raise WeightsError(message) from None


def _header_of_gguf(path: Path, file: GgufFile) -> Header:
    tensors = {name: (tensor.kind, tensor.shape) for name, tensor in file.tensors.items()}
    return Header(path, "gguf", tensors, file.values)


def _onnx_header(folder: Path) -> Header:
    """Of a folder that is no model of diffusers: its .onnx files, but for the hidden ones that a
    Mac leaves beside the others.
    """
    names = sorted(file.name for file in folder.glob("*.onnx"))
    return Header(
        folder, "onnx folder", {name: ("", ()) for name in names if not name.startswith(".")}
    )


def is_diffusers_folder(path: Path) -> bool:
    """Whether a folder is a diffusers pipeline, or one model as diffusers or transformers save
    it.
    """
    return (path / PIPELINE_INDEX).is_file() or (
        (path / "config.json").is_file() and any(path.glob("*.safetensors"))
    )


def _folder_header(path: Path) -> Header:
    """Of a whole pipeline, or of one component."""
    parts = {"": path}
    if (path / PIPELINE_INDEX).is_file():
        parts = {f"{name}/": path / name for name in COMPONENTS}
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    metadata: dict[str, Any] = {}
    shards: dict[str, tuple[Path, str]] = {}
    for prefix, folder in parts.items():
        metadata |= {prefix + key: value for key, value in _json_of(folder / "config.json").items()}
        for file in _weight_files(folder):
            for name, entry in read_header(file).tensors.items():
                tensors[prefix + name] = entry
                shards[prefix + name] = (file, name)
    return Header(path, "diffusers folder", tensors, metadata, shards)


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a component: all that its index names, else the one of the usual
    name, else the only one.
    """
    for stem in WEIGHT_STEMS:
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            names = _json_of(index).get("weight_map")
            if not isinstance(names, dict) or not all(map(_is_plain_name, names.values())):
                raise WeightsError(f"{index}: damaged index of a sharded model; download it again")
            files = [folder / name for name in sorted(set(names.values()))]
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise WeightsError(
                    f"{folder}: {len(missing)} of {len(files)} parts are missing ({missing[0]}); "
                    "the download is incomplete, repeat it"
                )
            return files
        if (folder / f"{stem}.safetensors").is_file():
            return [folder / f"{stem}.safetensors"]
    files = sorted(folder.glob("*.safetensors"))
    if len(files) > 1:
        raise WeightsError(
            f"{folder}: {len(files)} .safetensors files and none is {WEIGHT_STEMS[0]}.safetensors; "
            "give one of them by name"
        )
    return files


def _is_plain_name(name: Any) -> bool:
    """Whether it can be the name of a file in a folder, and no way out of it."""
    if not isinstance(name, str) or "\0" in name or len(name.encode()) > MAX_NAME_BYTES:
        return False
    return name == Path(name).name


def _json_of(path: Path) -> dict[str, Any]:
    """A JSON file's object, {} if there is no such file. Raises WeightsError for a damaged one."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_HEADER_BYTES + 1)
        if len(content) > MAX_HEADER_BYTES:
            raise ValueError(f"it is larger than {MAX_HEADER_BYTES >> 20} MiB")
        return read_object(content)
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise WeightsError(f"{path}: damaged JSON ({error}); download it again") from None


def _pickle_strings(path: Path, start: bytes) -> tuple[str, ...]:
    """All strings of a torch checkpoint's pickles: its keys are among them. Lists opcodes; executes
    nothing.

    Every role looks at every file of a models folder, and opcodes are slow: what an unchanged file
    says is listed once.
    """
    state = path.stat()
    return _listed_strings(path, start, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _listed_strings(path: Path, start: bytes, size: int, mtime_ns: int) -> tuple[str, ...]:
    try:
        if start[:2] == b"PK":
            with zipfile.ZipFile(path) as archive:
                # torch compresses nothing, and a megabyte of packed zeros is a gigabyte
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ValueError("compressed")
                name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
                return tuple(_strings_of(archive.read(name)))
        strings: list[str] = []
        with open(path, "rb") as file:
            # legacy layout: magic number, protocol, system info, the object itself
            for _ in range(4):
                strings += _strings_of(file)
        return tuple(strings)
    except Exception:  # zipfile, zlib and pickletools raise whatever a damaged byte leads to
        raise WeightsError(
            f"{path}: damaged or truncated torch checkpoint; download it again"
        ) from None


def _strings_of(pickle) -> list[str]:
    return [argument for _, argument, _ in pickletools.genops(pickle) if isinstance(argument, str)]
