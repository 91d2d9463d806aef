"""Puts layers into a model that keep their weights packed: ggml's quantised types and fp8 alike.

Knows neither format's arithmetic, and no model.

Shapes: R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pulid_generate.packed import fp8, ggml
from pulid_generate.packed.fp8 import Fp8Linear, Fp8Weight
from pulid_generate.packed.ggml import QuantizedLinear, QuantizedWeight
from pulid_generate.packed.workspace import Workspace

PackedWeight = QuantizedWeight | Fp8Weight
PACKED = (QuantizedWeight, Fp8Weight)


class PackedEmbedding(nn.Module):
    """A table whose rows stay packed; only those that are looked up are widened."""

    def __init__(self, weight: PackedWeight, dtype: torch.dtype):
        """weight: (R, C). dtype: of what the look-up gives."""
        super().__init__()
        self.dtype = dtype
        # holds the buffers, so that they move with the model
        self.table = packed_linear(weight, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(..) int64 -> (.., C)."""
        rows = self.table.weight.rows(ids.flatten())
        return rows.dequantize(self.dtype).view(*ids.shape, -1)


def keep_packed(model: nn.Module, weights: Mapping[str, PackedWeight]) -> None:
    """Put a layer that widens its weight while it runs in place of every linear layer that
    `weights` ("path.to.layer.weight") names.

    Raises KeyError for a name that is not a linear layer of the model, ValueError for another
    shape.
    """
    layers = dict(model.named_modules())
    workspace = Workspace()
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
        replacement = packed_linear(weight, layer.bias is not None, workspace)
        setattr(layers[parent], child, replacement)


def packed_linear(
    weight: PackedWeight, bias: bool, workspace: Workspace | None = None
) -> QuantizedLinear | Fp8Linear:
    """The layer for a packed weight. workspace: for fp8; a QuantizedLinear gets its memory from
    `compute_quantized`.
    """
    if isinstance(weight, QuantizedWeight):
        return QuantizedLinear(weight, bias)
    return Fp8Linear(weight, bias, workspace)


def show_to_graphs(model: nn.Module) -> None:
    """Before a model with packed layers is compiled: its graphs multiply as the layers do."""
    for layer in model.modules():
        if isinstance(layer, QuantizedLinear):
            ggml.show_to_graphs(layer)
        elif isinstance(layer, Fp8Linear):
            fp8.show_to_graphs(layer)


def swap_halves(weight: PackedWeight) -> PackedWeight:
    """The second half of the rows before the first."""
    count = weight.shape[0]
    first = torch.arange(count, device=weight.data.device)
    return weight.rows(first.roll(count // 2))
