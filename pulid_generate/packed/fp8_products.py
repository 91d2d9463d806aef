"""Matrix products in 8-bit floating point: both sides e4m3, with a scale for each row of the weight
and, found anew each time, for each token.

On a GPU from capability 8.9 on `torch._scaled_mm` multiplies; elsewhere the same numbers are
multiplied in float32, which is for tests: the rounding is the same, the time is not. Which layers
of a model do so is the caller's to say. Knows no file.

Shapes: R rows (outputs), C columns (inputs), M tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor, nn

from pulid_generate.errors import PlacementError
from pulid_generate.kernels import trials
from pulid_generate.kernels.availability import serves
from pulid_generate.packed.fp8 import Fp8Linear, Fp8Weight

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0
# a row of zeros has this for its largest number
SMALLEST = 1e-12
# compute capability of the first cards that multiply e4m3
OLDEST = (8, 9)


def reason_against(device: torch.device, dtype: torch.dtype) -> str:
    """Why `device` cannot multiply so, for a message; "" if it can."""
    if device.type != "cuda":
        return f"is for NVIDIA GPUs; the device is {device.type}"
    if torch.version.hip:
        return "is untested on AMD GPUs"
    if dtype != torch.bfloat16:
        return f"gives bfloat16; take --dtype bfloat16 instead of {dtype}".replace("torch.", "")
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        found, oldest = (".".join(map(str, version)) for version in (capability, OLDEST))
        return f"needs a GPU of compute capability {oldest}, this one has {found}"
    return ""


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (M, C) -> numbers (M, C) e4m3 and scales (M, 1) float32: each row's largest becomes 448."""
    kernels = _row_kernels(x)
    if kernels is not None:
        return kernels.quantize_rows(x)
    return _quantize_rows(x)


def _quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    numbers = x.float()
    scales = numbers.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST) / LARGEST
    return (numbers / scales).clamp(-LARGEST, LARGEST).to(E4M3), scales


def multiply(
    rows: Tensor, row_scales: Tensor, data: Tensor, scales: Tensor, bias: Tensor | None, dtype
) -> Tensor:
    """(M, R) in `dtype`: (rows * row_scales) (data * scales)^T + bias.

    rows: (M, C) e4m3, row_scales: (M, 1) float32. data: (R, C) e4m3, scales: (R, 1) float32. bias:
    (R,) in `dtype`, or None.
    """
    if rows.is_cuda:
        return torch._scaled_mm(
            rows,
            data.t(),
            scale_a=row_scales,
            scale_b=scales.t(),
            bias=bias,
            out_dtype=dtype,
            use_fast_accum=True,
        )
    out = (rows.float() @ data.float().t()) * row_scales * scales.t()
    return (out if bias is None else out + bias.float()).to(dtype)


class Fp8ProductLinear(nn.Module):
    """A linear layer that multiplies in e4m3."""

    def __init__(self, data: Tensor, scales: Tensor, bias: nn.Parameter | None):
        """data: (R, C) e4m3. scales: (R, 1) float32. bias: (R,)."""
        super().__init__()
        self.out_features, self.in_features = data.shape
        self.data: Tensor
        self.scales: Tensor
        self.register_buffer("data", data, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.bias = bias

    @property
    def weight(self) -> Fp8Weight:
        """The numbers that it multiplies with, for a DoRA, which needs their lengths."""
        return Fp8Weight(self.data, self.scales)

    def forward(self, x: Tensor) -> Tensor:
        """(.., C) -> (.., R), in the dtype of x."""
        rows, row_scales = quantize_rows(x.reshape(-1, self.in_features))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        out = multiply(rows, row_scales, self.data, self.scales, bias, x.dtype)
        return out.view(*x.shape[:-1], self.out_features)


def use_fp8_products(
    model: nn.Module,
    device: torch.device,
    multiplies: Callable[[str, tuple[int, int]], bool],
    storage: torch.device | None = None,
) -> int:
    """Let some linear layers of a model multiply in e4m3; they are turned one after the other, and
    the rest stays. Returns how many do.

    multiplies: whether the layer of this name and shape (R, C) does. device: where the model will
    run, and where each matrix is rounded. storage: where the result lies, None for where the matrix
    lay. A matrix that is e4m3 already is taken as it is, with its scale.
    """
    modules = dict(model.named_modules())
    count = 0
    for name, layer in modules.items():
        if not isinstance(layer, nn.Linear | Fp8Linear):
            continue
        if not multiplies(name, (layer.out_features, layer.in_features)):
            continue
        parent, _, child = name.rpartition(".")
        setattr(modules[parent], child, _converted(layer, device, storage))
        count += 1
    return count


def _converted(
    layer: nn.Linear | Fp8Linear, device: torch.device, storage: torch.device | None
) -> Fp8ProductLinear:
    given = layer.data if isinstance(layer, Fp8Linear) else layer.weight
    storage = storage or given.device
    if isinstance(layer, Fp8Linear) and layer.data.dtype == E4M3:
        scale = torch.ones(()) if layer.scale is None else layer.scale
        scales = scale.to(storage).expand(layer.out_features, 1).contiguous()
        return Fp8ProductLinear(layer.data.to(storage), scales, layer.bias)
    if isinstance(layer, Fp8Linear):
        weight = layer.weight.dequantize(torch.float32)
    else:
        weight = layer.weight
    data, scales = _quantize_rows(weight.detach().to(device))
    return Fp8ProductLinear(data.to(storage), scales.to(storage), layer.bias)


def check_products(device: torch.device) -> None:
    """Raise PlacementError if the card's products are not those of the same numbers in float32."""

    def pairs() -> list[trials.Pair]:
        random = torch.Generator().manual_seed(1)
        x = torch.randn(48, 64, generator=random).to(device, torch.bfloat16)
        weight = torch.randn(32, 64, generator=random).to(device)
        bias = torch.randn(32, generator=random).to(device, torch.bfloat16)
        (rows, row_scales), (data, scales) = _quantize_rows(x), _quantize_rows(weight)
        found = multiply(rows, row_scales, data, scales, bias, torch.bfloat16)
        exact = (rows.float() @ data.float().t()) * row_scales * scales.t() + bias.float()
        return [(found, exact)]

    name = "--compute fp8"
    if not trials.passes(name, device, torch.bfloat16, pairs):
        why = trials.take_notes()[-1]
        raise PlacementError(
            f"compute fp8: {device} did not multiply e4m3 as it should ({why}); leave it out"
        )


def _row_kernels(x: Tensor) -> ModuleType | None:
    """The kernel, where a card runs it rightly; a compiled graph fuses torch's operations."""
    if torch.compiler.is_compiling() or not serves(x.device):
        return None
    return _trusted_kernels(x.device, x.dtype)


@functools.cache
def _trusted_kernels(device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    from pulid_generate.kernels import fp8_rows

    def pairs() -> list[trials.Pair]:
        random = torch.Generator().manual_seed(1)
        x = torch.randn(5, 1500, generator=random).to(device, dtype)
        x[3] = 0
        made = []
        for found, expected in zip(fp8_rows.quantize_rows(x), _quantize_rows(x), strict=True):
            largest = expected.float().abs().max()
            made.append((found.float() / largest, expected.float() / largest))
        return made

    name = "activations in 8-bit floating point"
    return fp8_rows if trials.passes(name, device, dtype, pairs) else None
