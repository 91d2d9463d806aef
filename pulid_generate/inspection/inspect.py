"""What a file is, from its header alone: kind, layout, numbers by type, parameters, memory. For
`inspect`; imports no torch, loads nothing.

Knows how to describe every kind of model_files.kinds, an identity file and a picture of this
program. Which file fills which role, and whether two fit each other, is decided elsewhere.

Bytes of types and the names of fp8 scales: files/storage.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

from pulid_extract.shared.errors import WeightsError
from pulid_extract.shared.model_files import Header, kind_of, kinds_of, parts_of, read_header
from pulid_extract.shared.model_files.walking import files_below
from pulid_generate.errors import RequestError
from pulid_generate.files.layouts import T5_TABLES
from pulid_generate.files.storage import (
    DESCRIBING_ENDINGS,
    POSITIONS_ENDING,
    SCALE_ENDINGS,
    stored_bytes,
)
from pulid_generate.inspection.facts import facts_of, refusal_of
from pulid_generate.inspection.report import Inspection, Part

LORA_ENDINGS = (".lora_A.weight", ".lora_A.default.weight", ".lora_down.weight")
# by general.architecture
GGUF_MAKERS = {"": "sd.cpp", "flux": "city96", "t5encoder": "llama.cpp", "t5": "llama.cpp"}
MODEL_FILES = (".safetensors", ".sft", ".gguf", ".pt", ".pth", ".pulidembd")
# how the pictures begin that this program writes
PICTURE_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")
# of names that only one spelling has
DIFFUSERS_STARTS = ("transformer_blocks.", "encoder.down_blocks.", "decoder.up_blocks.")
BFL_STARTS = ("double_blocks.", "decoder.up.")


def files_of(path: Path) -> list[Path]:
    """A file, or a folder that is one model, as it is; any other folder as the models below it.
    Raises WeightsError if there are none.
    """
    if not path.is_dir() or read_header(path).tensors:
        return [path]
    files: set[Path] = set()
    for file in files_below(path):
        if file.suffix.lower() in MODEL_FILES:
            files.add(file)
        elif file.suffix.lower() == ".onnx":
            # a folder of them is one model
            files.add(file.parent)
    if not files:
        raise WeightsError(
            f"{path}: a folder without model files (expected {', '.join(MODEL_FILES)} or .onnx)"
        )
    return sorted(files)


def inspect(path: Path) -> Inspection:
    """What a file is. Raises PulidError for one that is damaged or of no known kind."""
    if any(_starts_with(path, start) for start in PICTURE_STARTS):
        return _picture(path)
    header = read_header(path)
    if header.format == "gguf" and "pulid_id" in header.tensors:
        return _identity(path)
    if any(name.endswith(LORA_ENDINGS) for name in header.tensors):
        return _lora(header)
    whole, kinds = kind_of(header), kinds_of(header)
    if header.format == "gguf" and whole.refusal and list(kinds) == [""]:
        # of another architecture: nothing more is known
        part = _part(header, whole.name, whole.refusal)
        return Inspection(path, whole.name, "GGUF", _size(header), [part])
    headers = parts_of(header)
    parts = []
    for prefix, kind in kinds.items():
        if prefix in headers:
            parts.append(_part(headers[prefix], kind.name, kind.refusal))
    return Inspection(path, whole.name, _layout(header, list(kinds)), _size(header), parts)


def _starts_with(path: Path, start: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(start)) == start
    except OSError:
        # a folder, or nothing: read_header says which
        return False


def _size(header: Header) -> int:
    """Bytes on disk: of a folder, of the files that belong to the model."""
    if header.path.is_file():
        return header.path.stat().st_size
    files = {path for path, _ in header.shards.values()}
    if not files:
        files = {header.path / name for name in header.tensors}
    return sum(file.stat().st_size for file in files)


def _layout(header: Header, prefixes: list[str]) -> str:
    front = ""
    if prefixes and prefixes[0] and header.format != "diffusers folder":
        front = f", names behind {prefixes[0]!r}"
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
    return f"safetensors{_spelling(header, prefixes[0])}{front}"


def _spelling(header: Header, prefix: str) -> str:
    """Whose names a safetensors file's tensors have, where there are two spellings."""
    if any(name.startswith(DIFFUSERS_STARTS) for name in header.tensors):
        return ", diffusers names"
    if any(name.removeprefix(prefix).startswith(BFL_STARTS) for name in header.tensors):
        return ", BFL names"
    return ""


def _part(header: Header, kind: str, refusal: str) -> Part:
    if header.format == "torch":
        return Part(kind, refusal, {}, {}, _size(header))
    shapes = {name: shape for name, (_, shape) in header.tensors.items()}
    facts: dict[str, Any] = {}
    if not refusal:
        facts = facts_of(kind, shapes)
        refusal = refusal_of(kind, shapes)
    facts |= _fp8(header)
    if header.format == "onnx folder":
        return Part(kind, refusal, facts, {}, None)
    dtypes: Counter[str] = Counter()
    stored = 0
    twice = all(name in header.tensors for name in T5_TABLES)
    for name, (dtype, shape) in header.tensors.items():
        if twice and name == T5_TABLES[1]:
            continue
        stored += stored_bytes(dtype, prod(shape))
        if not name.endswith((*DESCRIBING_ENDINGS, POSITIONS_ENDING)):
            dtypes[dtype] += prod(shape)
    return Part(kind, refusal, facts, dict(dtypes), stored)


def _fp8(header: Header) -> dict[str, str]:
    """How a file that holds 8-bit floats is scaled."""
    flavours = set()
    scales = [0]
    named = ""
    for name, (dtype, shape) in header.tensors.items():
        if dtype.startswith("F8_"):
            flavours.add(dtype[3:].lower())
        if name.endswith(SCALE_ENDINGS):
            scales.append(prod(shape))
        if name.endswith(".comfy_quant"):
            named = ", named by comfy_quant"
    if not flavours:
        return {}
    how = "plain"
    if len(scales) > 1:
        how = "a scale per row" if max(scales) > 1 else "a scale per matrix"
    return {"fp8": f"{' and '.join(sorted(flavours))}, {how}{named}"}


def _identity(path: Path) -> Inspection:
    from pulid_extract.shared.embedding_file import read_embedding

    embedding = read_embedding(path)
    facts: dict[str, Any] = {
        "tokens": list(embedding.tokens.shape),
        "dtype": embedding.dtype,
        "uncond": list(embedding.uncond.shape) if embedding.uncond is not None else False,
        "sha256": embedding.sha256,
        "provenance": dict(embedding.provenance),
    }
    kind, layout = "identity file (.pulidembd)", "docs/pulidembd.md, version 1"
    return Inspection(path, kind, layout, path.stat().st_size, facts=facts)


def _picture(path: Path) -> Inspection:
    from PIL import Image

    from pulid_extract.shared.picture_file import pillow_reads
    from pulid_generate.pictures.description import parse_description
    from pulid_generate.pictures.picture import SAVE_OPTIONS, read_parameters

    formats = tuple(SAVE_OPTIONS)
    with pillow_reads(str(path), WeightsError), Image.open(path, formats=formats) as image:
        size, name = image.size, str(image.format)
    facts: dict[str, Any] = {"size": list(size)}
    try:
        text = read_parameters(path.read_bytes())
    # a picture of somebody else's
    except RequestError:
        text = ""
    layout = f"{name}, not written by pulid-generate"
    if "pulid_generate" in text:
        facts |= parse_description(text)
        layout = f"{name} of pulid-generate"
    return Inspection(path, "picture", layout, path.stat().st_size, facts=facts)


def _lora(header: Header) -> Inspection:
    shapes = [shape for name, (_, shape) in header.tensors.items() if name.endswith(LORA_ENDINGS)]
    ranks = sorted({shape[0] for shape in shapes if shape})
    facts = {"layers": len(shapes), "rank": ranks[0] if len(ranks) == 1 else ranks}
    part = _part(header, "LoRA", "")
    return Inspection(header.path, "LoRA", header.format, _size(header), [part], facts)
