"""The tensors of a safetensors or GGUF file, or of a diffusers folder, and strict loading: what
every model file of this stage goes through.

Knows names only as text, and no model. How tensors are stored, and what is refused, is
files/storage.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pulid_extract.shared.model_files import GgufTensor, Header, read_gguf
from pulid_generate.errors import CheckpointError
from pulid_generate.files.storage import (
    DESCRIBING_ENDINGS,
    SCALE_ENDINGS,
    Marker,
    check_comfy_format,
    check_storage,
    part_of,
    scaled_by,
    stays_packed,
)
from pulid_generate.models.upload import Upload, upload_to
from pulid_generate.packed.layers import PackedWeight

FP8_TYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
GGUF_PLAIN_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def incomplete(header: Header, missing: str) -> CheckpointError:
    """The error for a file that lacks tensors. missing: their names."""
    return CheckpointError(
        f"{header.path}: missing {missing}; the file is incomplete, download it again"
    )


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
) -> Iterator[tuple[str, Tensor | PackedWeight]]:
    from safetensors import SafetensorError, safe_open

    from pulid_generate.packed.fp8 import Fp8Weight

    packed = packed and device.type != "mps"
    try:
        # on the CPU the tensors are views of the mapped file; what is scaled or cast for a GPU is
        # moved first
        with ExitStack() as stack:
            upload = stack.enter_context(upload_to(device))
            paths = {part.place_of(name)[0] for name in names}
            files = {
                path: stack.enter_context(safe_open(path, framework="pt")) for path in sorted(paths)
            }

            def read(name: str) -> Tensor:
                path, name_there = part.place_of(name)
                return files[path].get_tensor(name_there)

            scales: dict[str, Tensor] = {}
            for name in names:
                if name.endswith(".comfy_quant"):
                    check_comfy_format(part, name, bytes(read(name).tolist()))
                elif name.endswith(SCALE_ENDINGS):
                    scales[scaled_by(name)] = read(name).float()
            for name in names:
                if name.endswith(DESCRIBING_ENDINGS):
                    continue
                tensor = read(name)
                scale = scales.get(name)
                if scale is not None:
                    scale = _scale_of(tensor, scale)
                if packed and stays_packed(name, *part.tensors[name]):
                    moved = None if scale is None else scale.to(device)
                    yield name, Fp8Weight(upload.move(tensor), moved)
                    continue
                target = dtype
                if target is None:
                    target = torch.bfloat16 if tensor.dtype in FP8_TYPES else tensor.dtype
                if scale is None:
                    yield name, upload.move(tensor, target)
                elif device.type == "cuda":
                    yield name, (upload.move(tensor).float() * scale.to(device)).to(target)
                else:
                    yield name, (tensor.float() * scale).to(target).to(device)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{part.path}: damaged safetensors file ({error}); download it again"
        ) from None


def _scale_of(tensor: Tensor, scale: Tensor) -> Tensor:
    """The scale in a shape that multiplies `tensor`: one number, or one per row."""
    if scale.numel() == 1:
        return scale.reshape(())
    return scale.reshape(-1, *[1] * (tensor.ndim - 1))


def _read_gguf(
    part: Header,
    names: list[str],
    device: torch.device | str,
    dtype: torch.dtype | None,
    packed: bool,
) -> Iterator[tuple[str, Tensor | PackedWeight]]:
    """As read_tensors. Weights stay memory-mapped on the CPU until they are converted or moved."""
    entries = read_gguf(part.path).tensors
    with upload_to(torch.device(device)) as upload:
        yield from _gguf_tensors(part, names, entries, upload, dtype, packed)


def _gguf_tensors(
    part: Header,
    names: list[str],
    entries: Mapping[str, GgufTensor],
    upload: Upload,
    dtype: torch.dtype | None,
    packed: bool,
) -> Iterator[tuple[str, Tensor | PackedWeight]]:
    import gguf

    from pulid_generate.packed.ggml import QuantizedWeight

    # copy on write: torch dislikes read-only memory
    mapped = np.memmap(part.path, mode="c") if names else np.zeros(0, np.uint8)
    for name in names:
        entry = entries[part.place_of(name)[1]]
        data = torch.from_numpy(mapped[entry.offset : entry.offset + entry.size])
        if entry.kind in GGUF_PLAIN_TYPES:
            plain = GGUF_PLAIN_TYPES[entry.kind]
            yield name, upload.move(data.view(plain).reshape(entry.shape), dtype)
            continue
        rows = math.prod(entry.shape[:-1])
        kind = gguf.GGMLQuantizationType[entry.kind]
        weight = QuantizedWeight(upload.move(data.view(rows, -1)), kind)
        if packed and stays_packed(name, entry.kind, entry.shape):
            yield name, weight
        else:
            yield name, weight.dequantize(dtype or torch.float16).reshape(entry.shape)


def load_strictly(model: Any, state: dict[str, Tensor], header: Header) -> Any:
    """Put `state` into `model` (an nn.Module), every key accounted for, and return it in eval mode
    without gradients. Raises CheckpointError naming what is missing or of another shape.
    """
    expected = model.state_dict()
    missing = sorted(set(expected) - set(state))
    unknown = sorted(set(state) - set(expected))
    if missing or unknown:
        raise CheckpointError(
            f"{header.path}: missing {_some(missing)}, unknown {_some(unknown)}; "
            "not a complete file of its kind, download it again"
        )
    wrong = []
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            wrong.append(f"{name} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}")
    if wrong:
        raise CheckpointError(
            f"{header.path}: {_some(wrong)}; "
            "the file is damaged or not what it seems, download it again"
        )
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def reject_unknown(header: Header, unknown: list[str]) -> None:
    """Raise CheckpointError, naming them, if there are tensors that the model does not have."""
    if unknown:
        raise CheckpointError(
            f"{header.path}: unknown tensors {_some(unknown)}; "
            "not a plain file of its kind, get the original"
        )


def _some(names: list[str]) -> str:
    if not names:
        return "nothing"
    listed = ", ".join(names[:3])
    if len(names) > 3:
        listed += f" and {len(names) - 3} more"
    return listed
