"""The tensors of a safetensors or GGUF file, or of a diffusers folder, and strict loading. What
every model file of this stage goes through.

Knows names only as text, and no model.

Source of the fp8 scale names and formats: comfyanonymous/ComfyUI comfy/utils.py
(convert_old_quants), comfy/quant_ops.py (QUANT_ALGOS).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Container, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pulid_extract.shared.model_files import PREFIXES, Header, parts_of, read_gguf
from pulid_generate.errors import CheckpointError

# fp8 files: keys that describe other tensors (ComfyUI). A scale belongs to the weight beside it,
# input scales only serve fp8 matmuls.
SCALE_ENDINGS = (".scale_weight", ".weight_scale")
IGNORED_ENDINGS = (".scale_input", ".input_scale", ".comfy_quant", "scaled_fp8")
FP8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}  # as safetensors spells them
NUMBERS = {"F64", "F32", "F16", "BF16", *FP8}  # stored as what they are
COMFY_FORMATS = (
    "float8_e4m3fn",
    "float8_e5m2",
)  # of comfy_quant and _quantization_metadata: those that are numbers times a scale
GGUF_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
USABLE = "use the bfloat16, fp8 or GGUF file"

# a tensor that only the model in question has; several: in one of these spellings
Marker = str | tuple[str, ...]


def read_tensors(
    header: Header,
    marker: Marker,
    device: torch.device | str,
    dtype: torch.dtype | None,
    packed: bool = False,
    skip: Container[str] = (),
) -> Iterator[tuple[str, Any]]:
    """(name, tensor) of the model in a file or folder that `marker` belongs to, prefix stripped,
    fp8 scales applied.

    dtype: of every tensor; None keeps the file's 16 or 32 bits, fp8 becoming bfloat16 and ggml's
    quantised types float16. packed: matrices in fp8 come as Fp8Weight and those in ggml's quantised
    types as QuantizedWeight instead; on a device without fp8 (mps) the former are widened all the
    same. skip: names that are not read. Raises CheckpointError.
    """
    part = part_of(header, marker)
    check_storage(part)
    names = [name for name in sorted(part.tensors) if name not in skip]
    if part.format == "gguf":
        yield from _read_gguf(part, names, device, dtype, packed)
    else:
        yield from _read_safetensors(part, names, torch.device(device), dtype, packed)


def _read_safetensors(
    part: Header, names: list[str], device: torch.device, dtype: torch.dtype | None, packed: bool
) -> Iterator[tuple[str, Any]]:
    from safetensors import SafetensorError, safe_open

    from pulid_generate.packed.fp8 import Fp8Weight

    try:
        # on the CPU the tensors are views of the mapped file: scaled and cast there, then moved,
        # nothing is held twice on the device
        with ExitStack() as stack:
            paths = {part.place_of(name)[0] for name in names}
            files = {
                path: stack.enter_context(safe_open(path, framework="pt")) for path in sorted(paths)
            }

            def read(name: str) -> Tensor:
                path, own = part.place_of(name)
                return files[path].get_tensor(own)

            for name in names:
                if name.endswith(".comfy_quant"):
                    _check_format(part, name, bytes(read(name).tolist()))
            scales = {
                _scaled(name): read(name).float() for name in names if name.endswith(SCALE_ENDINGS)
            }
            for name in names:
                if name.endswith(SCALE_ENDINGS + IGNORED_ENDINGS):
                    continue
                tensor, scale = read(name), scales.get(name)
                target = dtype or (torch.bfloat16 if tensor.dtype in FP8.values() else tensor.dtype)
                if scale is not None:  # one number, or one per row
                    scale = (
                        scale.reshape(())
                        if scale.numel() == 1
                        else scale.reshape(-1, *[1] * (tensor.ndim - 1))
                    )
                if packed and device.type != "mps" and _is_packed(name, *part.tensors[name]):
                    yield (
                        name,
                        Fp8Weight(tensor.to(device), None if scale is None else scale.to(device)),
                    )
                    continue
                if scale is not None:
                    tensor = tensor.float() * scale
                yield name, tensor.to(target).to(device)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{part.path}: damaged safetensors file ({error}); download it again"
        ) from None


def _read_gguf(
    part: Header,
    names: list[str],
    device: torch.device | str,
    dtype: torch.dtype | None,
    packed: bool,
) -> Iterator[tuple[str, Any]]:
    """As read_tensors. Weights stay memory-mapped on the CPU until they are converted or moved."""
    import gguf

    from pulid_generate.packed.ggml import QuantizedWeight

    entries = read_gguf(part.path).tensors
    # copy on write: torch dislikes read-only memory
    mapped = np.memmap(part.path, mode="c") if names else np.zeros(0, np.uint8)
    for name in names:
        entry = entries[part.place_of(name)[1]]
        data = torch.from_numpy(mapped[entry.offset : entry.offset + entry.size])
        if entry.kind in GGUF_PLAIN:
            plain = GGUF_PLAIN[entry.kind]
            yield name, data.view(plain).reshape(entry.shape).to(device, dtype or plain)
            continue
        rows = math.prod(entry.shape[:-1])
        weight = QuantizedWeight(
            data.view(rows, -1).to(device), gguf.GGMLQuantizationType[entry.kind]
        )
        keep = packed and _is_packed(name, entry.kind, entry.shape)
        yield (
            name,
            weight if keep else weight.dequantize(dtype or torch.float16).reshape(entry.shape),
        )


def _is_packed(name: str, kind: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of this storage can stay as it is in memory: matrices in fp8 or one of
    ggml's quantised types.
    """
    return len(shape) == 2 and name.endswith("weight") and (kind in FP8 or kind not in NUMBERS)


def float32_bytes(header: Header, marker: Marker, dequantize: bool = False) -> int:
    """Bytes of a model in memory if all that is plain is float32. Packed matrices count as stored,
    with dequantize as plain ones.
    """
    total = 0
    for name, (kind, shape) in part_of(header, marker).tensors.items():
        count = math.prod(shape)
        if not dequantize and _is_packed(name, kind, shape):
            total += count if kind in FP8 else _ggml_bytes(kind, count)
        else:
            total += 4 * count
    return total


def _ggml_bytes(kind: str, count: int) -> int:
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return count // block * size


def quality_notes(header: Header, marker: Marker) -> list[str]:
    """What a user should know of how the weights are stored; empty for most files."""
    part = part_of(header, marker)
    if any(kind == "F8_E5M2" and len(shape) == 2 for kind, shape in part.tensors.values()):
        return [
            f"{header.path}: its weights are fp8 e5m2, with two bits after the point; e4m3 or a Q8_0 GGUF draws better"
        ]
    return []


def _scaled(scale_name: str) -> str:
    """The weight that a scale belongs to."""
    return f"{scale_name.rpartition('.')[0]}.weight"


def check_storage(part: Header) -> None:
    """Refuse what is stored in a form that is not simply its numbers: it would load, and draw
    garbage. Reads no weight.

    Raises CheckpointError.
    """
    if part.format == "torch":
        raise CheckpointError(
            f"{part.path}: is a torch pickle, which this program does not open; use the .safetensors or GGUF file"
        )
    if part.format == "gguf":
        _check_ggml(part)
        return
    for layer in _comfy_layers(part):
        _check_format(part, "_quantization_metadata", json.dumps(layer).encode())
    scales = {
        _scaled(name): math.prod(shape)
        for name, (_, shape) in part.tensors.items()
        if name.endswith(SCALE_ENDINGS)
    }
    for name, (kind, shape) in part.tensors.items():
        # the last: a buffer of old CLIP exports
        if name.endswith((*SCALE_ENDINGS, *IGNORED_ENDINGS, "position_ids")):
            continue
        if kind not in NUMBERS:
            stored = re.sub(r"^[IU](?=\d)", lambda match: {"I": "int", "U": "uint"}[match[0]], kind)
            raise CheckpointError(
                f"{part.path}: {name} is stored as {stored} (nvfp4, int8 or another packed format), which cannot be read; {USABLE}"
            )
        rows = shape[0] if shape else 1
        if scales.get(name, 1) not in (1, rows):
            raise CheckpointError(
                f"{part.path}: {name} has {scales[name]} scales for {rows} rows (mxfp8 or another block format), "
                f"which cannot be read; {USABLE}"
            )
        if (
            kind in FP8
            and name.endswith(".weight")
            and scales
            and name not in scales
            and len(shape) == 2
        ):
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
        layers = json.loads(part.metadata.get("_quantization_metadata", "{}")).get("layers", {})
        own = {part.place_of(name)[1].rpartition(".")[0] for name in part.tensors}
        return [layer for name, layer in layers.items() if name in own]
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(
            f"{part.path}: its _quantization_metadata is damaged; download it again"
        ) from None


def _check_format(part: Header, name: str, text: bytes) -> None:
    """Refuse a ComfyUI storage format, {"format": "float8_e4m3fn", ..}, that is more than numbers
    and scales.
    """
    try:
        found = json.loads(text).get("format")
    except (ValueError, AttributeError, RecursionError):
        raise CheckpointError(f"{part.path}: {name} is damaged; download the file again") from None
    if found not in COMFY_FORMATS:
        raise CheckpointError(
            f"{part.path}: {name} says that weights are stored as {found}, which cannot be read; {USABLE}"
        )


def load_strictly(model: Any, state: dict[str, Tensor], header: Header) -> Any:
    """Put `state` into `model` (an nn.Module), every key accounted for. Raises CheckpointError
    naming what is missing or of another shape.
    """
    wanted = model.state_dict()
    missing = sorted(set(wanted) - set(state))
    unknown = sorted(set(state) - set(wanted))
    if missing or unknown:
        raise CheckpointError(
            f"{header.path}: missing {_some(missing)}, unknown {_some(unknown)}; not a complete file of its kind, download it again"
        )
    wrong = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in wanted
    ]
    wrong = [
        text
        for name, text in zip(wanted, wrong, strict=True)
        if state[name].shape != wanted[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{header.path}: {_some(wrong)}; the file is damaged or not what it seems, download it again"
        )
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def reject_unknown(header: Header, unknown: list[str]) -> None:
    if unknown:
        raise CheckpointError(
            f"{header.path}: unknown tensors {_some(unknown)}; not a plain file of its kind, get the original"
        )


def _some(names: list[str]) -> str:
    return (
        ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    ) or "nothing"


def part_of(header: Header, marker: Marker) -> Header:
    """The model in a file that `marker` belongs to, its names bare; the whole file if there is
    none.
    """
    parts, spellings = parts_of(header), (marker,) if isinstance(marker, str) else marker
    return next(
        (
            parts[prefix]
            for prefix in PREFIXES
            if prefix in parts and parts[prefix].names & set(spellings)
        ),
        header,
    )


def shapes_of(header: Header, marker: Marker) -> dict[str, tuple[int, ...]]:
    """name -> shape of the model that `marker` belongs to, prefix stripped."""
    return {name: shape for name, (_, shape) in part_of(header, marker).tensors.items()}


def width_of(header: Header, marker: Marker) -> int:
    """Columns of the matrix that `marker` names."""
    shapes = shapes_of(header, marker)
    return next(
        shapes[name][-1]
        for name in ((marker,) if isinstance(marker, str) else marker)
        if name in shapes
    )


def depth_of(names: Iterable[str], blocks: str) -> int:
    """1 + the largest number in `blocks.NUMBER.*`, 0 if there is none."""
    found = re.compile(re.escape(blocks) + r"\.(\d+)\.")
    return 1 + max((int(match[1]) for match in map(found.match, names) if match), default=-1)
