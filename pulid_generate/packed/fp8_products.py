"""Matrix products in fp8, on cards that multiply it: weights with a scale for each row, activations
rounded while the model runs, with a scale for each token.

A product of two e4m3 numbers is exact in the card's sums; what is lost is the rounding of both
sides to 3 bits of mantissa. Row scales keep a large channel or token from costing its neighbours
theirs. Knows nothing of Flux or files; which layers compute so is the table KEPT and its reasons.

Shapes: M tokens, R rows (outputs), C columns (inputs).

Sources: torch.nn.functional.scaled_mm's row-wise form (torch 2.5 and newer, `torch._scaled_mm`);
arXiv 2209.05433 (e4m3's range).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pulid_generate.kernels.availability import available
from pulid_generate.packed.fp8 import Fp8Weight

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0
SMALLEST_SCALE = 2.0**-126 * LARGEST  # a row of zeros keeps a scale that can be divided by
ALIGNED = 16  # of which the sides of a matrix must be multiples
OLDEST = (8, 9)  # compute capability of the first cards with fp8 products

# Layers that keep 16 bits: the last words of their names, and why. Together they are 4 % of the
# arithmetic of a step.
KEPT = {
    "x_embedder": "64 channels: nothing to gain, and every later number depends on it",
    "context_embedder": "T5's states have channels hundreds of times as large as their neighbours",
    "proj_out": "of the whole model: 64 channels that become the picture",
    "linear_1": "time, guidance and CLIP's vector: one token",
    "linear_2": "time, guidance and CLIP's vector: one token",
    "linear": "modulations: one token, and their errors scale whole channels",
}


class Fp8ProductLinear(nn.Module):
    """A linear layer that multiplies in fp8. Its output has the dtype of its input."""

    def __init__(self, weight: Fp8Weight, bias: Tensor | None):
        """weight: e4m3, scale float32 (R, 1), as `row_scaled` gives it. bias: (R,)."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.data: Tensor
        self.scale: Tensor
        self.register_buffer("data", weight.data, persistent=False)
        self.register_buffer("scale", weight.scale, persistent=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def weight(self) -> Fp8Weight:
        """Not a tensor: a LoRA is added to outputs, and nothing else reads a weight's dtype."""
        return Fp8Weight(self.data, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """(.., C) -> (.., R)."""
        rows, scales = quantize_rows(x.reshape(-1, self.in_features))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if x.is_cuda:
            out = torch._scaled_mm(
                rows,
                self.data.t(),
                scale_a=scales,
                scale_b=self.scale.t(),
                bias=bias,
                out_dtype=x.dtype,
                use_fast_accum=True,
            )
        else:  # the same numbers on any device, for tests: products and sums in float32
            product = (rows.float() @ self.data.float().t()) * scales * self.scale.t()
            out = product.to(x.dtype) if bias is None else (product + bias).to(x.dtype)
        return out.view(*x.shape[:-1], self.out_features)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (M, C) -> (float8_e4m3fn (M, C), float32 (M, 1)): the largest number of each row becomes
    448, the rest is rounded to the nearest.
    """
    if not torch.compiler.is_compiling() and available(x.device) is None:
        from pulid_generate.kernels import row_scales

        return row_scales.quantize_rows(x, SMALLEST_SCALE)
    numbers = x.float()
    scale = (numbers.abs().amax(dim=1, keepdim=True) / LARGEST).clamp_min(SMALLEST_SCALE)
    return (numbers / scale).clamp(-LARGEST, LARGEST).to(E4M3), scale


def row_scaled(weight: Tensor | Fp8Weight) -> Fp8Weight:
    """A weight (R, C) as e4m3 with a scale for each row. One that is e4m3 already keeps its numbers."""
    if isinstance(weight, Fp8Weight) and weight.data.dtype == E4M3:
        ones = torch.ones(weight.shape[0], 1, dtype=torch.float32, device=weight.data.device)
        return Fp8Weight(weight.data, ones if weight.scale is None else weight.scale * ones)
    numbers = weight.dequantize(torch.float32) if isinstance(weight, Fp8Weight) else weight
    return Fp8Weight(*quantize_rows(numbers))


def reason_against(device: torch.device) -> str | None:
    """Why a device cannot multiply fp8; None if it can."""
    if device.type != "cuda":
        return f"needs an NVIDIA GPU that multiplies fp8, and the device is {device.type}"
    if torch.version.hip:
        return "is untested on AMD GPUs"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        found, oldest = (".".join(map(str, version)) for version in (capability, OLDEST))
        return f"needs compute capability {oldest} (Ada, Hopper or newer), and the GPU has {found}"
    return None


def keeps_16_bits(name: str, rows: int, columns: int) -> bool:
    """Whether the layer of this name (in Flux, diffusers' spelling) and size stays as it is."""
    if rows % ALIGNED or columns % ALIGNED:
        return True
    *blocks, last = name.split(".")
    # in a block, proj_out is the largest of its matrices
    return last in KEPT and not (last == "proj_out" and blocks)


def compute_in_fp8(model: nn.Module) -> nn.Module:
    """Put fp8 products in place of the model's linear layers, but for those that KEPT names, one at
    a time, on the device where they are. Layers with packed weights become e4m3 as well.
    """
    for name, layer in list(model.named_modules()):
        weight = getattr(layer, "weight", None)
        if not hasattr(layer, "in_features") or isinstance(layer, Fp8ProductLinear):
            continue
        if weight is None or keeps_16_bits(name, layer.out_features, layer.in_features):
            continue
        if not isinstance(weight, (Tensor, Fp8Weight)):
            weight = weight.dequantize(torch.bfloat16)
        parent, _, child = name.rpartition(".")
        with torch.inference_mode(False), torch.no_grad():
            bias = None if layer.bias is None else layer.bias.detach()
            replaced = Fp8ProductLinear(row_scaled(weight), bias)
        setattr(model.get_submodule(parent), child, replaced)
    return model
