"""What a file is, from its header alone: kind, layout, numbers by type, parameters, memory. For
`inspect`; imports no torch, loads nothing.

Knows how to describe every kind of model_files.kinds, an identity file and a picture of this
program. Which file fills which role, and whether two fit each other, is decided elsewhere.

Sources: safetensors README (dtype names); ggml's block sizes by gguf-py; the fp8 names of ComfyUI
as in tensor_files.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

from pulid_extract.shared.errors import WeightsError
from pulid_extract.shared.model_files import Header, kind_of, kinds_of, parts_of, read_header
from pulid_generate.files.storage import (
    DESCRIBING_ENDINGS,
    POSITIONS_ENDING,
    SCALE_ENDINGS,
    stored_bytes,
)
from pulid_generate.inspection.facts import EMBEDDING_TWICE, FACTS
from pulid_generate.inspection.report import Inspection, Part

LORA_ENDINGS = (".lora_A.weight", ".lora_A.default.weight", ".lora_down.weight")
# by general.architecture
GGUF_MAKERS = {"": "sd.cpp", "flux": "city96", "t5encoder": "llama.cpp", "t5": "llama.cpp"}
MODEL_FILES = (".safetensors", ".gguf", ".pt", ".pth", ".pulidembd")
PNG_START = b"\x89PNG\r\n\x1a\n"


# ----------------------------------------------------------------------------------------- any file


def files_of(path: Path) -> list[Path]:
    """A file, or a folder that is one model, as it is; any other folder as the models below it.
    Raises WeightsError if there are none.
    """
    if not path.is_dir() or read_header(path).tensors:
        return [path]
    files = [file for ending in MODEL_FILES for file in path.rglob(f"*{ending}")]
    if not files:
        raise WeightsError(
            f"{path}: a folder without model files (expected {', '.join(MODEL_FILES)} or .onnx)"
        )
    return sorted({*files, *(file.parent for file in path.rglob("*.onnx"))})


def inspect(path: Path) -> Inspection:
    """What a file is. Raises PulidError for one that is damaged or of no known kind."""
    if _starts_with(path, PNG_START):
        return _picture(path)
    header = read_header(path)
    if header.format == "gguf" and "pulid_id" in header.tensors:
        return _identity(path)
    if any(name.endswith(LORA_ENDINGS) for name in header.tensors):
        return _lora(header)
    whole, kinds = kind_of(header), kinds_of(header)
    if (
        header.format == "gguf" and whole.refusal and "" in kinds and len(kinds) == 1
    ):  # of another architecture: nothing more is known
        return Inspection(
            path, whole.name, "GGUF", _size(header), [_part(header, whole.name, whole.refusal)]
        )
    parts = parts_of(header)
    described = [
        _part(parts[prefix], kind.name, kind.refusal)
        for prefix, kind in kinds.items()
        if prefix in parts
    ]
    return Inspection(path, whole.name, _layout(header, list(kinds)), _size(header), described)


def _starts_with(path: Path, start: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(start)) == start
    except OSError:  # a folder, or nothing: read_header says which
        return False


def _size(header: Header) -> int:
    """Bytes on disk: of a folder, of the files that belong to the model."""
    if header.path.is_file():
        return header.path.stat().st_size
    files = {place for place, _ in header.shards.values()} or {
        header.path / name for name in header.tensors
    }
    return sum(file.stat().st_size for file in files)


def _layout(header: Header, prefixes: list[str]) -> str:
    front = (
        f", names behind {prefixes[0]!r}"
        if prefixes and prefixes[0] and header.format != "diffusers folder"
        else ""
    )
    if header.format == "gguf":
        architecture = str(header.metadata.get("general.architecture", ""))
        named = f"architecture {architecture}" if architecture else "no architecture"
        return f"GGUF as {GGUF_MAKERS.get(architecture, 'others')} writes it ({named}){front}"
    if len(prefixes) > 1:
        return "diffusers pipeline" if header.format == "diffusers folder" else "ComfyUI all-in-one"
    if header.format == "torch":
        return f"torch pickle{front}"
    if header.format in ("onnx folder", "diffusers folder"):
        return header.format
    diffusers = any(
        name.startswith(("transformer_blocks.", "encoder.down_blocks.", "decoder.up_blocks."))
        for name in header.tensors
    )
    bfl = any(
        part.startswith(("double_blocks.", "decoder.up."))
        for part in (name.removeprefix(prefixes[0]) for name in header.tensors)
    )
    return f"safetensors{', diffusers names' if diffusers else ', BFL names' if bfl else ''}{front}"


def _part(header: Header, kind: str, refusal: str) -> Part:
    shapes = {name: shape for name, (_, shape) in header.tensors.items()}
    facts = (
        FACTS.get(kind, lambda shapes: {})(shapes)
        if not refusal and header.format != "torch"
        else {}
    )
    if header.format != "torch":
        facts |= _fp8(header)
    if "refusal" in facts:
        refusal = facts.pop("refusal")
    if header.format in ("torch", "onnx folder"):
        return Part(kind, refusal, facts, {}, _size(header) if header.format == "torch" else None)
    dtypes: Counter[str] = Counter()
    stored = 0
    twice = all(name in header.tensors for name in EMBEDDING_TWICE)
    for name, (dtype, shape) in header.tensors.items():
        if twice and name == EMBEDDING_TWICE[1]:
            continue
        stored += stored_bytes(dtype, prod(shape))
        if not name.endswith((*DESCRIBING_ENDINGS, POSITIONS_ENDING)):
            dtypes[dtype] += prod(shape)
    return Part(kind, refusal, facts, dict(dtypes), stored)


def _fp8(header: Header) -> dict[str, str]:
    """How a file that holds 8-bit floats is scaled."""
    flavours = sorted(
        {dtype[3:].lower() for dtype, _ in header.tensors.values() if dtype.startswith("F8_")}
    )
    if not flavours:
        return {}
    scales = [
        prod(shape) for name, (_, shape) in header.tensors.items() if name.endswith(SCALE_ENDINGS)
    ]
    how = "plain" if not scales else "a scale per row" if max(scales) > 1 else "a scale per matrix"
    named = (
        ", named by comfy_quant"
        if any(name.endswith(".comfy_quant") for name in header.tensors)
        else ""
    )
    return {"fp8": f"{' and '.join(flavours)}, {how}{named}"}


# ------------------------------------------------------------------------- files that are no models


def _identity(path: Path) -> Inspection:
    from pulid_extract.shared.embedding_file import read_embedding

    found = read_embedding(path)
    facts: dict[str, Any] = {
        "tokens": list(found.tokens.shape),
        "dtype": found.dtype,
        "uncond": list(found.uncond.shape) if found.uncond is not None else False,
        "sha256": found.sha256,
        "provenance": dict(found.provenance),
    }
    return Inspection(
        path,
        "identity file (.pulidembd)",
        "docs/pulidembd.md, version 1",
        path.stat().st_size,
        facts=facts,
    )


def _picture(path: Path) -> Inspection:
    from PIL import Image

    from pulid_generate.pictures.description import parse_description

    try:
        with Image.open(path) as image:
            size, text = image.size, getattr(image, "text", {}).get("parameters", "")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise WeightsError(f"{path}: damaged PNG ({error})") from None
    if "pulid_generate" not in text:
        return Inspection(
            path,
            "picture",
            "PNG, not written by pulid-generate",
            path.stat().st_size,
            facts={"size": list(size)},
        )
    return Inspection(
        path,
        "picture",
        "PNG of pulid-generate",
        path.stat().st_size,
        facts={"size": list(size), **parse_description(text)},
    )


def _lora(header: Header) -> Inspection:
    downs = {
        name: shape for name, (_, shape) in header.tensors.items() if name.endswith(LORA_ENDINGS)
    }
    ranks = sorted({shape[0] for shape in downs.values() if shape})
    facts = {"layers": len(downs), "rank": ranks[0] if len(ranks) == 1 else ranks}
    return Inspection(
        header.path, "LoRA", f"{header.format}", _size(header), [_part(header, "LoRA", "")], facts
    )
