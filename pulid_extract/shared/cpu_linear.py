"""Linear layers in float32 on a CPU, by the fastest library that torch has. For both stages: knows
torch, and no model.

torch multiplies plain float32 matrices with MKL, which on AMD processors uses half of the vector
width; oneDNN, which torch carries as well, uses all of it: 2.3 times faster there
(docs/performance.md), and as fast elsewhere. Both compute in float32; sums are ordered differently.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (.., C), weight (R, C), bias (R,), all of one dtype -> (.., R)."""
    # the operator has no gradient, and torch.compile chooses for itself
    if x.requires_grad or torch.compiler.is_compiling() or not x.numel():
        return nn.functional.linear(x, weight, bias)
    is_float32 = x.dtype == weight.dtype == torch.float32
    if not is_float32 or x.device.type != "cpu" or not has_onednn():
        return nn.functional.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def has_onednn() -> bool:
    """Whether torch carries oneDNN, with the operators that its compiler uses."""
    # the operator is torch's own, for its compiler; a build without it falls back
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class CpuLinear(nn.Linear):
    """nn.Linear that multiplies with `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """(.., C) -> (.., R)."""
        return linear(input, self.weight, self.bias)


def use_cpu_linear(model: Model) -> Model:
    """Turn every plain nn.Linear of a model that computes in float32 on a CPU into a CpuLinear;
    hooks and names stay. Returns `model`.
    """
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = CpuLinear
    return model
