"""What a file is, from its header alone: kind, layout, numbers by type, parameters, memory. For `inspect`; imports no torch, loads nothing.

Knows how to describe every kind of model_files.kinds, an identity file and a picture of this program. Which file fills which role, and
whether two fit each other, is decided elsewhere.

Sources: safetensors README (dtype names); ggml's block sizes by gguf-py; the fp8 names of ComfyUI as in tensor_files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil, prod
from pathlib import Path
from typing import Any

from pulid_extract.shared.errors import WeightsError
from pulid_extract.shared.model_files import Header, kind_of, kinds_of, parts_of, read_header
from pulid_extract.shared.model_files.transfer import size_text

DOUBLE_INTERVAL, SINGLE_INTERVAL = 2, 4  # as in injection.py; a test compares them
LATENT_WIDTH = 64  # as in checkpoints.py
VARIANTS = {384: "Flux Fill", 128: "Flux Canny or Depth"}  # by input width
WIDTHS = {
    "F64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
SCALES = (".scale_weight", ".weight_scale")
DESCRIBING = (
    *SCALES,
    ".scale_input",
    ".input_scale",
    ".comfy_quant",
    "scaled_fp8",
    "position_ids",
)  # of other tensors; no parameters
EMBEDDING_TWICE = ("shared.weight", "encoder.embed_tokens.weight")  # T5's one table, which t5xxl_fp16 holds under both names
LORA_ENDINGS = (".lora_A.weight", ".lora_A.default.weight", ".lora_down.weight")
GGUF_MAKERS = {"": "sd.cpp", "flux": "city96", "t5encoder": "llama.cpp", "t5": "llama.cpp"}  # by general.architecture
MODEL_FILES = (".safetensors", ".gguf", ".pt", ".pth", ".pulidembd")
PNG_START = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Part:
    """One model of a file.

    refusal: why it cannot be used here, "" if it can. facts: what its shapes say. dtypes: parameters by type, as the file spells it; empty
    where only the names are known (a pickle). stored: bytes of its tensors. parameters: None where they are not known.
    """

    kind: str
    refusal: str
    facts: dict[str, Any]
    dtypes: dict[str, int]
    stored: int | None

    @property
    def parameters(self) -> int | None:
        return sum(self.dtypes.values()) if self.dtypes else None

    @property
    def memory(self) -> dict[str, int] | None:
        """Bytes when loaded: kept as stored, in 16 bits, in 32 bits."""
        if self.parameters is None or self.stored is None:
            return None
        return {"stored": self.stored, "bf16": 2 * self.parameters, "f32": 4 * self.parameters}


@dataclass(frozen=True)
class Inspection:
    """What one file or folder is. size: bytes on disk. facts: of files that are no models."""

    path: Path
    kind: str
    layout: str
    size: int
    parts: list[Part] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "kind": self.kind,
            "layout": self.layout,
            "bytes": self.size,
            **self.facts,
            "parts": [
                {
                    "kind": part.kind,
                    "refusal": part.refusal or None,
                    **part.facts,
                    "parameters": part.parameters,
                    "dtypes": part.dtypes,
                    "memory": part.memory,
                }
                for part in self.parts
            ],
        }

    def as_text(self) -> str:
        """A paragraph for people."""
        rows: list[tuple[str, str]] = [("kind", self.kind), ("layout", self.layout)]
        rows += [(name, _fact(value)) for name, value in self.facts.items()]
        for part in self.parts:
            if len(self.parts) > 1:
                rows.append(("part", part.kind))
            rows += [(name, _fact(value)) for name, value in part.facts.items()]
            rows += _numbers(part)
            if part.refusal:
                rows.append(("refused", part.refusal))
        if len(self.parts) > 1 and all(part.memory for part in self.parts):
            rows.append(("together", _memory(_sum(part.memory or {} for part in self.parts))))
        rows.append(("on disk", size_text(self.size)))
        width = max(len(name) for name, _ in rows)
        return "\n".join([str(self.path), *(f"  {name.replace('_', ' '):<{width}}  {value}" for name, value in rows)])


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(part)}" for name, part in value.items())
    return " x ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _numbers(part: Part) -> list[tuple[str, str]]:
    if part.parameters is None or part.memory is None:
        return [] if part.stored is None else [("parameters", "not known: a pickle is not opened here")]
    shares = sorted(part.dtypes.items(), key=lambda entry: -entry[1])
    mix = ", ".join(f"{100 * count / part.parameters:.1f} % {name}" for name, count in shares)
    return [("parameters", f"{part.parameters:,}: {mix}"), ("in memory", _memory(part.memory))]


def _memory(memory: Mapping[str, int]) -> str:
    stored, half, full = (size_text(memory[name]) for name in ("stored", "bf16", "f32"))
    return f"{stored} as stored, {half} in 16 bits, {full} in 32 bits"


def _sum(memories: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for memory in memories:
        total.update(memory)
    return dict(total)


# --------------------------------------------------------------------------------------------------------------- any file


def files_of(path: Path) -> list[Path]:
    """A file, or a folder that is one model, as it is; any other folder as the models below it. Raises WeightsError if there are none."""
    if not path.is_dir() or read_header(path).tensors:
        return [path]
    files = [file for ending in MODEL_FILES for file in path.rglob(f"*{ending}")]
    if not files:
        raise WeightsError(f"{path}: a folder without model files (expected {', '.join(MODEL_FILES)} or .onnx)")
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
        return Inspection(path, whole.name, "GGUF", _size(header), [_part(header, whole.name, whole.refusal)])
    parts = parts_of(header)
    described = [_part(parts[prefix], kind.name, kind.refusal) for prefix, kind in kinds.items() if prefix in parts]
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
    files = {place for place, _ in header.shards.values()} or {header.path / name for name in header.tensors}
    return sum(file.stat().st_size for file in files)


def _layout(header: Header, prefixes: list[str]) -> str:
    front = f", names behind {prefixes[0]!r}" if prefixes and prefixes[0] and header.format != "diffusers folder" else ""
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
        name.startswith(("transformer_blocks.", "encoder.down_blocks.", "decoder.up_blocks.")) for name in header.tensors
    )
    bfl = any(
        part.startswith(("double_blocks.", "decoder.up.")) for part in (name.removeprefix(prefixes[0]) for name in header.tensors)
    )
    return f"safetensors{', diffusers names' if diffusers else ', BFL names' if bfl else ''}{front}"


def _part(header: Header, kind: str, refusal: str) -> Part:
    shapes = {name: shape for name, (_, shape) in header.tensors.items()}
    facts = FACTS.get(kind, lambda shapes: {})(shapes) if not refusal and header.format != "torch" else {}
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
        stored += _bytes(dtype, prod(shape))
        if not name.endswith(DESCRIBING):
            dtypes[dtype] += prod(shape)
    return Part(kind, refusal, facts, dict(dtypes), stored)


def _bytes(dtype: str, count: int) -> int:
    if dtype in WIDTHS:
        return count * WIDTHS[dtype]
    import gguf

    try:
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[dtype]]
    except KeyError:  # a type that safetensors will have one day: its name says so
        return count
    return count // block * size


def _fp8(header: Header) -> dict[str, str]:
    """How a file that holds 8-bit floats is scaled."""
    flavours = sorted({dtype[3:].lower() for dtype, _ in header.tensors.values() if dtype.startswith("F8_")})
    if not flavours:
        return {}
    scales = [prod(shape) for name, (_, shape) in header.tensors.items() if name.endswith(SCALES)]
    how = "plain" if not scales else "a scale per row" if max(scales) > 1 else "a scale per matrix"
    named = ", named by comfy_quant" if any(name.endswith(".comfy_quant") for name in header.tensors) else ""
    return {"fp8": f"{' and '.join(flavours)}, {how}{named}"}


# ------------------------------------------------------------------------------------------------------------ by kind of model

Shapes = Mapping[str, tuple[int, ...]]


def _depth(shapes: Shapes, blocks: str) -> int:
    """1 + the largest number in `blocks.NUMBER.*`, 0 if there is none."""
    found = re.compile(re.escape(blocks) + r"\.(\d+)\.")
    return 1 + max((int(match[1]) for match in map(found.match, shapes) if match), default=-1)


def _axis(shapes: Shapes, name: str, axis: int) -> int | None:
    shape = shapes.get(name, ())
    return shape[axis] if len(shape) > axis else None


def _flux(names: tuple[str, str, str, str, str]) -> Callable[[Shapes], dict[str, Any]]:
    """names: of the image input, the text input, the double and single blocks, and what only dev has."""

    def facts(shapes: Shapes) -> dict[str, Any]:
        image, text, doubles, singles, guidance = names
        double, single, inputs = _depth(shapes, doubles), _depth(shapes, singles), _axis(shapes, image, 1)
        variant = VARIANTS.get(inputs or 0)
        found = {
            "model": variant or ("dev (or Krea, Kontext)" if any(name.startswith(guidance) for name in shapes) else "schnell"),
            "double_blocks": double,
            "single_blocks": single,
            "width": _axis(shapes, image, 0),
            "text_width": _axis(shapes, text, 1),
            "hook_places": ceil(double / DOUBLE_INTERVAL) + ceil(single / SINGLE_INTERVAL),
        }
        if inputs is not None and inputs != LATENT_WIDTH:
            found["refusal"] = f"its input is {inputs} wide, expected {LATENT_WIDTH}; use FLUX.1 dev or schnell"
        return found

    return facts


def _pulid(shapes: Shapes) -> dict[str, Any]:
    return {
        "layers": _depth(shapes, "pulid_ca"),
        "width": _axis(shapes, "pulid_ca.0.norm2.weight", 0),
        "token_width": _axis(shapes, "pulid_ca.0.norm1.weight", 0),
        "id_tokens": _axis(shapes, "pulid_encoder.latents", 1),
        "encoder": "pulid_encoder.latents" in shapes,
    }


def _tower(blocks: str, table: str) -> Callable[[Shapes], dict[str, Any]]:
    return lambda shapes: {
        "layers": _depth(shapes, blocks),
        "width": _axis(shapes, table, 1),
        "vocabulary": _axis(shapes, table, 0),
    }


def _clip(shapes: Shapes) -> dict[str, Any]:
    return _tower("encoder.layers", "embeddings.token_embedding.weight")(shapes)


def _t5(shapes: Shapes) -> dict[str, Any]:
    table = next((name for name in (*EMBEDDING_TWICE, "token_embd.weight") if name in shapes), "")
    return _tower("enc.blk" if table == "token_embd.weight" else "encoder.block", table)(shapes)


def _vae(shapes: Shapes) -> dict[str, Any]:
    return {"latent_channels": _axis(shapes, "decoder.conv_in.weight", 1), "encoder": "encoder.conv_in.weight" in shapes}


FACTS: dict[str, Callable[[Shapes], dict[str, Any]]] = {
    "Flux transformer": _flux(("img_in.weight", "txt_in.weight", "double_blocks", "single_blocks", "guidance_in.")),
    "diffusers Flux transformer": _flux(
        (
            "x_embedder.weight",
            "context_embedder.weight",
            "transformer_blocks",
            "single_transformer_blocks",
            "time_text_embed.guidance_embedder.",
        )
    ),
    "PuLID-FLUX file": _pulid,
    "CLIP-L text encoder": _clip,
    "T5 encoder": _t5,
    "T5 encoder in GGUF": _t5,
    "Flux autoencoder": _vae,
    "diffusers Flux autoencoder": _vae,
    "antelopev2 folder": lambda shapes: {"networks": ", ".join(sorted(shapes))},
}


# --------------------------------------------------------------------------------------------------------- files that are no models


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
    return Inspection(path, "identity file (.pulidembd)", "docs/pulidembd.md, version 1", path.stat().st_size, facts=facts)


def _picture(path: Path) -> Inspection:
    from PIL import Image

    from pulid_generate.pictures.description import parse_description

    try:
        with Image.open(path) as image:
            size, text = image.size, getattr(image, "text", {}).get("parameters", "")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise WeightsError(f"{path}: damaged PNG ({error})") from None
    if "pulid_generate" not in text:
        return Inspection(path, "picture", "PNG, not written by pulid-generate", path.stat().st_size, facts={"size": list(size)})
    return Inspection(
        path, "picture", "PNG of pulid-generate", path.stat().st_size, facts={"size": list(size), **parse_description(text)}
    )


def _lora(header: Header) -> Inspection:
    downs = {name: shape for name, (_, shape) in header.tensors.items() if name.endswith(LORA_ENDINGS)}
    ranks = sorted({shape[0] for shape in downs.values() if shape})
    facts = {"layers": len(downs), "rank": ranks[0] if len(ranks) == 1 else ranks}
    return Inspection(header.path, "LoRA", f"{header.format}", _size(header), [_part(header, "LoRA", "")], facts)
