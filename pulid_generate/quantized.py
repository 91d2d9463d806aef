"""Weights in ggml's quantised types: kept as the file's bytes, widened for one matrix product at a time.

Knows nothing of Flux or of files. The arithmetic of the types is diffusers' torch port (models of city96's), run in float32, and gguf-py's
for the rare types that it lacks.

Shapes: R rows (outputs), C columns (inputs). A row is C / block_size blocks of type_size bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gguf
import torch
from torch import Tensor, nn

ROWS_AT_ONCE = 128  # of a weight: few enough that a slice's float32 intermediates stay in the processor's cache


@dataclass(frozen=True)
class QuantizedWeight:
    """data: uint8 (R, bytes of a row), as in the file. kind: ggml's type."""

    data: Tensor
    kind: gguf.GGMLQuantizationType

    @property
    def shape(self) -> torch.Size:
        """(R, C)."""
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return torch.Size((self.data.shape[0], self.data.shape[1] // size * block))

    @property
    def ndim(self) -> int:
        return 2

    def split(self, rows: Sequence[int]) -> list[QuantizedWeight]:
        """Parts of so many rows each; blocks never cross a row."""
        return [QuantizedWeight(part, self.kind) for part in self.data.split(list(rows))]

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """(R, C) in `dtype`, each number computed in float32 and rounded once."""
        out = torch.empty(self.shape, dtype=dtype, device=self.data.device)
        for data, part in zip(self.data.split(ROWS_AT_ONCE), out.split(ROWS_AT_ONCE), strict=True):
            part.copy_(_numbers(data, self.kind).view(part.shape))
        return out


class QuantizedLinear(nn.Module):
    """A linear layer whose weight stays quantised. It computes in the dtype of its input, with a bias of any dtype."""

    def __init__(self, weight: QuantizedWeight, bias: bool):
        super().__init__()
        self.kind = weight.kind
        self.out_features, self.in_features = weight.shape
        self.data: Tensor
        self.register_buffer("data", weight.data, persistent=False)
        self.bias = nn.Parameter(torch.empty(self.out_features, device="meta"), requires_grad=False) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(.., C) -> (.., R)."""
        weight = QuantizedWeight(self.data, self.kind).dequantize(x.dtype)
        return nn.functional.linear(x, weight, None if self.bias is None else self.bias.to(x.dtype))


def keep_quantized(model: nn.Module, weights: dict[str, QuantizedWeight]) -> None:
    """Put a QuantizedLinear in place of every linear layer that `weights` ("path.to.layer.weight") names.

    Raises KeyError for a name that is no linear layer of the model, ValueError for another shape.
    """
    for name, weight in weights.items():
        path, _, leaf = name.rpartition(".")
        parent, _, child = path.rpartition(".")
        layer = model.get_submodule(path) if leaf == "weight" and path else None
        if not isinstance(layer, nn.Linear):
            raise KeyError(name)
        if layer.weight.shape != weight.shape:
            raise ValueError(f"{name} is {tuple(weight.shape)}, expected {tuple(layer.weight.shape)}")
        setattr(model.get_submodule(parent), child, QuantizedLinear(weight, layer.bias is not None))


def _numbers(data: Tensor, kind: gguf.GGMLQuantizationType) -> Tensor:
    """float32 numbers of quantised rows."""
    from diffusers.quantizers.gguf.utils import dequantize_functions

    block, size = gguf.GGML_QUANT_SIZES[kind]
    if kind in dequantize_functions:
        return dequantize_functions[kind](data.reshape(-1, size), block, size, torch.float32)
    return torch.from_numpy(gguf.dequantize(data.cpu().numpy(), kind)).to(data.device)
