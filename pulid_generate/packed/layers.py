"""Weights that stay in memory as their file stores them, ggml's quantised types and fp8 alike:
layers for them in a model.

Knows neither format's arithmetic, and no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from pulid_generate.packed.fp8 import Fp8Linear, Fp8Weight
from pulid_generate.packed.ggml import QuantizedLinear, QuantizedWeight
from pulid_generate.packed.workspace import Workspace

PackedWeight = QuantizedWeight | Fp8Weight
PACKED = (QuantizedWeight, Fp8Weight)


class PackedEmbedding(nn.Module):
    """A table whose rows stay packed; only those that are looked up are widened, to `dtype`."""

    def __init__(self, weight: PackedWeight, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        # holds the buffers, so that they move with the model
        self.table = _linear(weight, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(..) int64 -> (.., C)."""
        return _rows(self.table.weight, ids.flatten()).dequantize(self.dtype).view(*ids.shape, -1)


def keep_packed(model: nn.Module, weights: Mapping[str, PackedWeight]) -> None:
    """Put a layer that widens its weight while it runs in place of every linear layer that
    `weights` ("path.to.layer.weight") names.

    Raises KeyError for a name that is no linear layer of the model, ValueError for another shape.
    """
    layers, workspace = dict(model.named_modules()), Workspace()
    for name, weight in weights.items():
        path, _, leaf = name.rpartition(".")
        parent, _, child = path.rpartition(".")
        layer = layers.get(path)
        if leaf != "weight" or not isinstance(layer, nn.Linear):
            raise KeyError(name)
        if layer.weight.shape != weight.shape:
            raise ValueError(
                f"{name} is {tuple(weight.shape)}, expected {tuple(layer.weight.shape)}"
            )
        setattr(layers[parent], child, _linear(weight, layer.bias is not None, workspace))


def swap_halves(weight: PackedWeight) -> PackedWeight:
    """The second half of the rows before the first."""
    first = torch.arange(weight.shape[0], device=weight.data.device)
    return _rows(weight, first.roll(weight.shape[0] // 2))


def _linear(
    weight: PackedWeight, bias: bool, workspace: Workspace | None = None
) -> QuantizedLinear | Fp8Linear:
    # a QuantizedLinear gets its memory from compute_quantized
    return (
        QuantizedLinear(weight, bias)
        if isinstance(weight, QuantizedWeight)
        else Fp8Linear(weight, bias, workspace)
    )


def _rows(weight: PackedWeight, indices: Tensor) -> PackedWeight:
    return (
        weight.rows(indices)
        if isinstance(weight, Fp8Weight)
        else replace(weight, data=weight.data[indices])
    )
