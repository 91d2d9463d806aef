"""How model files store tensors: types and their bytes, fp8 scales, which matrices stay packed in
memory, and what cannot be read. From headers alone; knows names only as text, and no model.

Sources: safetensors README (names of types); comfyanonymous/ComfyUI comfy/utils.py
(convert_old_quants: the fp8 scales), comfy/quant_ops.py (QUANT_ALGOS: the formats).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pulid_extract.shared.json_text import read_object
from pulid_extract.shared.model_files import PREFIXES, Header, parts_of
from pulid_extract.shared.model_files.gguf_files import ggml_bytes
from pulid_generate.errors import CheckpointError
from pulid_generate.files.layouts import T5_DECODER, T5_MARKER, FluxNames, FluxShape

# a tensor that only the model in question has, in each of its spellings
Marker = tuple[str, ...]

# bytes of a number, by the name that safetensors has for its type
FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
FP8_BYTES = {"F8_E4M3": 1, "F8_E5M2": 1}
INTEGER_BYTES = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
NUMBER_BYTES = FLOAT_BYTES | FP8_BYTES | INTEGER_BYTES

# Endings of the tensors in fp8 files that describe other tensors. A scale belongs to the weight
# beside it; input scales only serve products in fp8.
SCALE_ENDINGS = (".scale_weight", ".weight_scale")
IGNORED_ENDINGS = (".scale_input", ".input_scale", ".comfy_quant", "scaled_fp8")
DESCRIBING_ENDINGS = SCALE_ENDINGS + IGNORED_ENDINGS
# a buffer of old CLIP exports
POSITIONS_ENDING = "position_ids"

# of comfy_quant and _quantization_metadata: those that are numbers times a scale
COMFY_FORMATS = ("float8_e4m3fn", "float8_e5m2")
# ggml's types that are plain numbers
GGUF_PLAIN = ("F32", "F16", "BF16")
USABLE = "use the bfloat16, fp8 or GGUF file"


def stored_bytes(kind: str, count: int) -> int:
    """Bytes of `count` numbers of a type as safetensors or ggml spell it. A type that neither knows
    counts one byte a number.
    """
    if kind in NUMBER_BYTES:
        return count * NUMBER_BYTES[kind]
    try:
        return ggml_bytes(kind, count)
    except KeyError:
        return count


def stays_packed(name: str, kind: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor may stay in memory as it is stored: a matrix of weights in fp8 or in one of
    ggml's quantised types.
    """
    return len(shape) == 2 and name.endswith("weight") and kind not in FLOAT_BYTES


def part_of(header: Header, marker: Marker) -> Header:
    """The model in a file that `marker` belongs to, its names bare, without what whole T5s have
    beside their encoder; the whole file if there is none.
    """
    parts = parts_of(header)
    for prefix in PREFIXES:
        if prefix in parts and not parts[prefix].names.isdisjoint(marker):
            part = parts[prefix]
            if marker == T5_MARKER:
                return _without(part, T5_DECODER)
            return part
    return header


def _without(part: Header, beginnings: tuple[str, ...]) -> Header:
    kept = {}
    for name, entry in part.tensors.items():
        if not name.startswith(beginnings):
            kept[name] = entry
    return replace(part, tensors=kept)


def shapes_of(header: Header, marker: Marker) -> dict[str, tuple[int, ...]]:
    """name -> shape of the model that `marker` belongs to, prefix stripped."""
    return {name: shape for name, (_, shape) in part_of(header, marker).tensors.items()}


def width_of(header: Header, marker: Marker) -> int:
    """Columns of the matrix that `marker` names. Raises KeyError without it."""
    shapes = shapes_of(header, marker)
    for name in marker:
        if name in shapes:
            return shapes[name][-1]
    raise KeyError(marker)


def depth_of(names: Iterable[str], blocks: str) -> int:
    """1 + the largest number in `blocks.NUMBER.*`, 0 if there is none. Numbers of four digits and
    more are none: no model has so many blocks, and one name could ask for a billion.
    """
    number = re.compile(re.escape(blocks) + r"\.([0-9]{1,3})\.")
    depth = 0
    for name in names:
        match = number.match(name)
        if match:
            depth = max(depth, int(match[1]) + 1)
    return depth


def flux_shape_of(shapes: Mapping[str, tuple[int, ...]], names: FluxNames) -> FluxShape:
    """The sizes that tensors of one spelling have: of a Flux, or of a ControlNet, which has its
    parts. shapes: tensor -> its shape. Raises KeyError, IndexError where one of `names` lacks.
    """
    return FluxShape(
        width=shapes[names.latent][0],
        double=depth_of(shapes, names.double),
        single=depth_of(shapes, names.single),
        context=shapes[names.context][1],
        pooled=shapes[names.pooled][1],
        guidance=names.guidance in shapes,
    )


def scaled_by(scale_name: str) -> str:
    """The name of the weight that a scale belongs to."""
    return f"{scale_name.rpartition('.')[0]}.weight"


def quality_notes(header: Header, marker: Marker) -> list[str]:
    """What a user should know of how the weights are stored; empty for most files."""
    part = part_of(header, marker)
    if any(kind == "F8_E5M2" and len(shape) == 2 for kind, shape in part.tensors.values()):
        return [
            f"{header.path}: its weights are fp8 e5m2, with two bits after the point; "
            "e4m3 or a Q8_0 GGUF draws better"
        ]
    return []


def check_storage(part: Header) -> None:
    """Refuse what is stored in a form that is not simply its numbers: it would load, and draw
    garbage. Reads no weight.

    Raises CheckpointError.
    """
    if part.format == "torch":
        raise CheckpointError(
            f"{part.path}: is a torch pickle, which this program does not open; "
            "use the .safetensors or GGUF file"
        )
    if part.format == "gguf":
        _check_ggml(part)
        return
    for layer in _comfy_layers(part):
        check_comfy_format(part, "_quantization_metadata", json.dumps(layer).encode())
    scales = {
        scaled_by(name): math.prod(shape)
        for name, (_, shape) in part.tensors.items()
        if name.endswith(SCALE_ENDINGS)
    }
    for name, (kind, shape) in part.tensors.items():
        if not name.endswith((*DESCRIBING_ENDINGS, POSITIONS_ENDING)):
            _check_tensor(part, name, kind, shape, scales)


def _check_tensor(
    part: Header, name: str, kind: str, shape: tuple[int, ...], scales: dict[str, int]
) -> None:
    if kind not in FLOAT_BYTES and kind not in FP8_BYTES:
        stored = re.sub(r"^[IU](?=\d)", lambda match: {"I": "int", "U": "uint"}[match[0]], kind)
        raise CheckpointError(
            f"{part.path}: {name} is stored as {stored} (nvfp4, int8 or another packed format), "
            f"which cannot be read; {USABLE}"
        )
    rows = shape[0] if shape else 1
    if scales.get(name, 1) not in (1, rows):
        raise CheckpointError(
            f"{part.path}: {name} has {scales[name]} scales for {rows} rows (mxfp8 or another "
            f"block format), which cannot be read; {USABLE}"
        )
    is_fp8_matrix = kind in FP8_BYTES and name.endswith(".weight") and len(shape) == 2
    if is_fp8_matrix and scales and name not in scales:
        raise CheckpointError(
            f"{part.path}: {name} is fp8 without a scale in a scaled fp8 file; download it again"
        )


def _check_ggml(part: Header) -> None:
    import gguf

    readable = {*GGUF_PLAIN, *(kind.name for kind in gguf.quants._type_traits)}
    for name, (kind, _) in part.tensors.items():
        if kind not in readable:
            raise CheckpointError(
                f"{part.path}: {name} is stored as {kind}, which cannot be read; {USABLE}"
            )


def _comfy_layers(part: Header) -> list[Any]:
    """What ComfyUI's `_quantization_metadata` says of this model's layers."""
    try:
        told = read_object(part.metadata.get("_quantization_metadata", "{}"))
        layers = told.get("layers", {})
        own = {part.place_of(name)[1].rpartition(".")[0] for name in part.tensors}
        return [layer for name, layer in layers.items() if name in own]
    # of another type
    except (ValueError, TypeError, AttributeError):
        raise CheckpointError(
            f"{part.path}: its _quantization_metadata is damaged; download it again"
        ) from None


def check_comfy_format(part: Header, name: str, text: bytes) -> None:
    """Refuse a ComfyUI storage format, {"format": "float8_e4m3fn", ..}, that is more than numbers
    and scales. name: of the tensor or the metadata that says so. Raises CheckpointError.
    """
    try:
        stated = read_object(text).get("format")
    except ValueError:
        raise CheckpointError(f"{part.path}: {name} is damaged; download the file again") from None
    if stated not in COMFY_FORMATS:
        raise CheckpointError(
            f"{part.path}: {name} says that weights are stored as {stated}, "
            f"which cannot be read; {USABLE}"
        )
