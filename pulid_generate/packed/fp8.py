"""Weights in 8-bit floating point: kept as stored, widened for one matrix product at a time.

A weight is its fp8 numbers times a scale, for the whole matrix or for each row (ComfyUI's "scaled"
files), or the numbers alone. On a CPU the layers of a model share the memory that they widen into.
Knows nothing of Flux, T5 or files.

Shapes: R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pulid_extract.shared.cpu_linear import linear
from pulid_generate.kernels.availability import serves
from pulid_generate.packed.opaque import LayersByAddress
from pulid_generate.packed.workspace import Workspace, may_reuse

# Numbers of a weight that are looked up at a time: few enough that a slice's intermediates stay in
# the processor's cache.
NUMBERS_AT_ONCE = 2**17


@dataclass(frozen=True)
class Fp8Weight:
    """A matrix (R, C) in 8-bit floating point."""

    # float8_e4m3fn or float8_e5m2, (R, C)
    data: Tensor
    # float32, () or (R, 1); None for 1
    scale: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """(R, C)."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """2, as of a matrix."""
        return 2

    @property
    def row_scales(self) -> Tensor | None:
        """The scale if there is one per row, (R, 1) float32."""
        if self.scale is None or self.scale.ndim != 2:
            return None
        return self.scale

    def split(self, rows: Sequence[int]) -> list[Fp8Weight]:
        """Parts of so many rows each."""
        parts = self.data.split(list(rows))
        if self.row_scales is None:
            return [Fp8Weight(part, self.scale) for part in parts]
        scales = self.row_scales.split(list(rows))
        return [Fp8Weight(part, scale) for part, scale in zip(parts, scales, strict=True)]

    def rows(self, indices: Tensor) -> Fp8Weight:
        """The rows of these numbers, int64 (N,)."""
        # fp8 tensors cannot be indexed everywhere
        data = self.data.view(torch.uint8)[indices].view(self.data.dtype)
        scale = self.scale if self.row_scales is None else self.row_scales[indices]
        return Fp8Weight(data, scale)

    def dequantize(self, dtype: torch.dtype, workspace: Workspace | None = None) -> Tensor:
        """(R, C) in `dtype`: each number times its scale in float32, rounded once. Without a scale
        that is exact in every wider type.

        workspace: on a CPU, memory to write into; the result is valid until its next use.
        """
        if self.data.device.type == "cpu":
            return self._look_up(dtype, workspace)
        if serves(self.data.device):
            # bit for bit the same numbers, in one pass
            from pulid_generate.kernels import fp8 as kernel

            return kernel.widen_fp8(self.data, self.scale, dtype)
        if self.scale is None:
            return self.data.to(dtype)
        return self.data.to(torch.float32).mul_(self.scale).to(dtype)

    def _look_up(self, dtype: torch.dtype, workspace: Workspace | None) -> Tensor:
        """As `dequantize`, on a CPU: torch's conversion takes several times as long as looking the
        256 numbers up.
        """
        if workspace is None:
            out = torch.empty(self.shape, dtype=dtype)
        else:
            out = workspace.take("weight", tuple(self.shape), dtype)
        table = torch.arange(256, dtype=torch.uint8).view(self.data.dtype).to(torch.float32)
        rows = max(1, NUMBERS_AT_ONCE // self.shape[1])
        codes = self.data.view(torch.uint8).split(rows)
        parts = out.split(rows)
        if self.row_scales is not None:
            scales = self.row_scales.split(rows)
            for code, part, scale in zip(codes, parts, scales, strict=True):
                numbers = table.index_select(0, code.flatten().int()).view(code.shape)
                part.copy_(numbers.mul_(scale))
            return out
        # one scale for all: it and the rounding go into the table
        if self.scale is not None:
            table *= self.scale
        table = table.to(dtype)
        for code, part in zip(codes, parts, strict=True):
            torch.index_select(table, 0, code.flatten().int(), out=part.view(-1))
        return out


class Fp8Linear(nn.Module):
    """A linear layer whose weight stays fp8. It computes in the dtype of its input, with a bias of
    any dtype.
    """

    def __init__(self, weight: Fp8Weight, bias: bool, workspace: Workspace | None = None):
        """bias: whether there is one; it is loaded later. workspace: memory to widen into, shared
        with layers that never run at the same time.
        """
        super().__init__()
        self.workspace = workspace
        self.out_features, self.in_features = weight.shape
        self.data: Tensor
        self.scale: Tensor | None
        self.bias: nn.Parameter | None = None
        self.register_buffer("data", weight.data, persistent=False)
        self.register_buffer("scale", weight.scale, persistent=False)
        if bias:
            empty = torch.empty(self.out_features, device="meta")
            self.bias = nn.Parameter(empty, requires_grad=False)

    @property
    def weight(self) -> Fp8Weight:
        """Not a tensor, so that code which looks at a weight's dtype before it calls the layer
        (T5's feed-forward) leaves the input alone.
        """
        return Fp8Weight(self.data, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """(.., C) -> (.., R)."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if torch.compiler.is_compiling() and not serves(x.device):
            return _product_in_graph(x, self.data, self.scale, bias)
        return self.product(x, bias)

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """As `forward`, with a bias in the dtype of x."""
        if self.workspace is not None and may_reuse(x):
            return linear(x, self.weight.dequantize(x.dtype, self.workspace), bias)
        return nn.functional.linear(x, self.weight.dequantize(x.dtype), bias)


_in_graphs: LayersByAddress[Fp8Linear] = LayersByAddress()


@torch.library.custom_op("pulid_generate::fp8_linear", mutates_args=())
def _product_in_graph(x: Tensor, data: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    """x W^T + bias as an operator that torch.compile does not look into."""
    layer = _in_graphs.find(data)
    if layer is not None:
        return layer.product(x, bias)
    return nn.functional.linear(x, Fp8Weight(data, scale).dequantize(x.dtype), bias)


@_product_in_graph.register_fake
def _(x: Tensor, data: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], data.shape[0])


def show_to_graphs(layer: Fp8Linear) -> None:
    """Compiled graphs multiply with this layer as it multiplies by itself."""
    _in_graphs.remember(layer)
