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
from pulid_generate.packed.workspace import Workspace

# of a weight: few enough that a slice's intermediates stay in the processor's cache
NUMBERS_AT_ONCE = 2**17


@dataclass(frozen=True)
class Fp8Weight:
    """data: float8_e4m3fn or float8_e5m2 (R, C). scale: float32 () or (R, 1), None for 1."""

    data: Tensor
    scale: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """(R, C)."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        return 2

    def split(self, rows: Sequence[int]) -> list[Fp8Weight]:
        """Parts of so many rows each."""
        parts = self.data.split(list(rows))
        per_row = self.scale is not None and self.scale.ndim == 2
        scales = self.scale.split(list(rows)) if per_row else [self.scale] * len(parts)  # type: ignore[union-attr]
        return [Fp8Weight(part, scale) for part, scale in zip(parts, scales, strict=True)]

    def rows(self, indices: Tensor) -> Fp8Weight:
        """The rows of these numbers, int64 (N,)."""
        # fp8 tensors cannot be indexed everywhere
        data = self.data.view(torch.uint8)[indices].view(self.data.dtype)
        return Fp8Weight(
            data,
            self.scale[indices] if self.scale is not None and self.scale.ndim == 2 else self.scale,
        )

    def dequantize(self, dtype: torch.dtype, workspace: Workspace | None = None) -> Tensor:
        """(R, C) in `dtype`: each number times its scale in float32, rounded once. Without a scale
        that is exact in every wider type.

        With a workspace: in its memory, valid until the next call.
        """
        device = self.data.device
        if device.type != "cpu":
            return (
                self.data.to(dtype)
                if self.scale is None
                else self.data.to(torch.float32).mul_(self.scale).to(dtype)
            )
        out = (
            workspace.take("weight", tuple(self.shape), dtype)
            if workspace
            else torch.empty(self.shape, dtype=dtype)
        )
        per_row = self.scale is not None and self.scale.ndim == 2
        # torch's conversion takes several times as long as looking the 256 numbers up; their scale
        # and rounding go into the table
        table = torch.arange(256, dtype=torch.uint8).view(self.data.dtype).to(torch.float32)
        if self.scale is not None and not per_row:
            table *= self.scale
        table = table if per_row else table.to(dtype)
        rows = max(1, NUMBERS_AT_ONCE // self.shape[1])
        scales = self.scale.split(rows) if per_row else ()  # type: ignore[union-attr]
        codes = self.data.view(torch.uint8)
        for index, (part, numbers) in enumerate(
            zip(codes.split(rows), out.split(rows), strict=True)
        ):
            if per_row:
                numbers.copy_(
                    table.index_select(0, part.flatten().int()).view(part.shape).mul_(scales[index])
                )
            else:
                torch.index_select(table, 0, part.flatten().int(), out=numbers.view(-1))
        return out


class Fp8Linear(nn.Module):
    """A linear layer whose weight stays fp8. It computes in the dtype of its input, with a bias of
    any dtype.
    """

    def __init__(self, weight: Fp8Weight, bias: bool, workspace: Workspace | None = None):
        """workspace: memory to widen into, shared with layers that never run at the same time."""
        super().__init__()
        self.workspace = workspace
        self.out_features, self.in_features = weight.shape
        self.data: Tensor
        self.scale: Tensor | None
        self.register_buffer("data", weight.data, persistent=False)
        self.register_buffer("scale", weight.scale, persistent=False)
        self.bias = (
            nn.Parameter(torch.empty(self.out_features, device="meta"), requires_grad=False)
            if bias
            else None
        )

    @property
    def weight(self) -> Fp8Weight:
        """Not a tensor, so that code which looks at a weight's dtype before it calls the layer
        (T5's feed-forward) leaves the input alone.
        """
        return Fp8Weight(self.data, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """(.., C) -> (.., R)."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        # reused memory is for a CPU, where a fresh page costs as much as widening, and for passes
        # that nothing looks back at
        if (
            self.workspace is None
            or x.device.type != "cpu"
            or x.requires_grad
            or torch.compiler.is_compiling()
        ):
            return nn.functional.linear(x, self.weight.dequantize(x.dtype), bias)
        return linear(x, self.weight.dequantize(x.dtype, self.workspace), bias)
