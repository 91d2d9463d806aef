"""The tensors of a safetensors file, and strict loading. What every model file of this stage goes through.

Knows names only as text, and no model.

Source of the fp8 scale names: comfyanonymous/ComfyUI comfy/utils.py (convert_old_quants).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from pulid_extract.model_files import PREFIXES, Header
from pulid_generate.errors import CheckpointError

# fp8 files: keys that describe other tensors (ComfyUI). A scale belongs to the weight beside it, input scales only serve fp8 matmuls.
SCALE_ENDINGS = (".scale_weight", ".weight_scale")
IGNORED_ENDINGS = (".scale_input", ".input_scale", ".comfy_quant", "scaled_fp8")
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def read_tensors(
    header: Header,
    marker: str,
    device: torch.device | str,
    dtype: torch.dtype | None,
    quantized: bool = False,
) -> Iterator[tuple[str, Any]]:
    """(name, tensor) of the model in a safetensors or GGUF file that `marker` belongs to, prefix stripped, fp8 scales applied.

    dtype: of every tensor; None keeps the file's 16 or 32 bits, fp8 becoming bfloat16 and ggml's quantised types float16.
    quantized: matrices of ggml's quantised types come as QuantizedWeight instead.
    """
    prefix = prefix_of(header, marker)
    if header.format == "gguf":
        yield from _read_gguf(header, prefix, device, dtype, quantized)
        return
    from safetensors import SafetensorError, safe_open

    try:
        # on the CPU the tensors are views of the mapped file: scaled and cast there, then moved, nothing is held twice on the device
        with safe_open(header.path, framework="pt") as file:
            names = [name for name in sorted(header.tensors) if name.startswith(prefix)]
            scales = {_scaled(name): file.get_tensor(name).float() for name in names if name.endswith(SCALE_ENDINGS)}
            for name in names:
                if name.endswith(SCALE_ENDINGS + IGNORED_ENDINGS):
                    continue
                tensor = file.get_tensor(name)
                _check_numbers(header, name, tensor, scales)
                target = dtype or (torch.bfloat16 if tensor.dtype in FP8 else tensor.dtype)
                if name in scales:
                    scale = scales[name]  # one number, or one per row
                    tensor = tensor.float() * (scale if scale.numel() == 1 else scale.reshape(-1, *[1] * (tensor.ndim - 1)))
                yield name[len(prefix) :], tensor.to(target).to(device)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{header.path}: damaged safetensors file ({error}); download it again") from None


def _scaled(scale_name: str) -> str:
    """The weight that a scale belongs to."""
    return f"{scale_name.rpartition('.')[0]}.weight"


def _check_numbers(header: Header, name: str, tensor: Tensor, scales: dict[str, Tensor]) -> None:
    """Refuse what is stored in a form that is not simply its numbers: it would load, and draw garbage."""
    if not tensor.is_floating_point() and not name.endswith("position_ids"):  # a buffer of old CLIP exports
        raise CheckpointError(
            f"{header.path}: {name} is stored as {str(tensor.dtype).removeprefix('torch.')} (nvfp4, int8 or another packed format), "
            "which cannot be read; use the bfloat16, fp8 or GGUF file"
        )
    rows = tensor.shape[0] if tensor.ndim else 1
    if name in scales and scales[name].numel() not in (1, rows):
        raise CheckpointError(
            f"{header.path}: {name} has {scales[name].numel()} scales for {rows} rows (mxfp8 or another block format), "
            "which cannot be read; use the bfloat16, fp8 or GGUF file"
        )
    if tensor.dtype in FP8 and name.endswith(".weight") and scales and name not in scales and tensor.ndim == 2:
        raise CheckpointError(f"{header.path}: {name} is fp8 without a scale in a scaled fp8 file; download it again")


def _read_gguf(
    header: Header, prefix: str, device: torch.device | str, dtype: torch.dtype | None, quantized: bool
) -> Iterator[tuple[str, Any]]:
    """As read_tensors. Weights stay memory-mapped on the CPU until they are converted or moved."""
    import gguf

    from pulid_generate.quantized import QuantizedWeight

    plain = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    for entry in gguf.GGUFReader(header.path, "c").tensors:  # copy on write: torch dislikes read-only memory
        if not entry.name.startswith(prefix):
            continue
        kind, shape = header.tensors[entry.name]
        data = torch.from_numpy(entry.data)
        if kind in plain:
            # gguf-py gives BF16 as bytes, also of one-dimensional tensors
            tensor = data.view(torch.uint8).view(plain[kind]).reshape(shape).to(device, dtype or plain[kind])
        else:
            weight = QuantizedWeight(data.reshape(-1, data.shape[-1]).to(device), entry.tensor_type)
            keep = quantized and len(shape) == 2
            tensor = weight if keep else weight.dequantize(dtype or torch.float16).reshape(shape)  # type: ignore[assignment]
        yield entry.name[len(prefix) :], tensor


def load_strictly(model: Any, state: dict[str, Tensor], header: Header) -> Any:
    """Put `state` into `model` (an nn.Module), every key accounted for. Raises CheckpointError naming what is missing or of another shape."""
    wanted = model.state_dict()
    missing = sorted(set(wanted) - set(state))
    unknown = sorted(set(state) - set(wanted))
    if missing or unknown:
        raise CheckpointError(
            f"{header.path}: missing {_some(missing)}, unknown {_some(unknown)}; not a complete file of its kind, download it again"
        )
    wrong = [f"{name} is {tuple(state[name].shape)}, expected {tuple(wanted[name].shape)}" for name in wanted]
    wrong = [text for name, text in zip(wanted, wrong, strict=True) if state[name].shape != wanted[name].shape]
    if wrong:
        raise CheckpointError(f"{header.path}: {_some(wrong)}; the file is damaged or not what it seems, download it again")
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def reject_unknown(header: Header, unknown: list[str]) -> None:
    if unknown:
        raise CheckpointError(f"{header.path}: unknown tensors {_some(unknown)}; not a plain file of its kind, get the original")


def _some(names: list[str]) -> str:
    return (", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")) or "nothing"


def shapes_of(header: Header, marker: str) -> dict[str, tuple[int, ...]]:
    """name -> shape of the model that `marker` belongs to, prefix stripped."""
    prefix = prefix_of(header, marker)
    return {name[len(prefix) :]: shape for name, (_, shape) in header.tensors.items() if name.startswith(prefix)}


def prefix_of(header: Header, marker: str) -> str:
    return next((prefix for prefix in PREFIXES if prefix + marker in header.tensors), "")


def depth_of(names: Iterable[str], blocks: str) -> int:
    """1 + the largest number in `blocks.NUMBER.*`, 0 if there is none."""
    found = re.compile(re.escape(blocks) + r"\.(\d+)\.")
    return 1 + max((int(match[1]) for match in map(found.match, names) if match), default=-1)
