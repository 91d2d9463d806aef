"""Weights in ggml's quantised types: kept as the file's bytes, widened for one matrix product at a
time.

Knows layers; nothing of Flux or of files, nor of what the bytes mean (blocks). On a CPU the layers
of a model share the memory that they widen into, may keep widened weights within a budget, and may
multiply in 8-bit integers (int8_products): see `compute_quantized`.

Shapes: R rows (outputs), C columns (inputs), M tokens. A row is C / block_size blocks of type_size
bytes.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import gguf
import torch
from torch import Tensor, nn

from pulid_extract.shared.cpu_linear import linear
from pulid_generate.packed import ggml_blocks as blocks
from pulid_generate.packed import int8_products
from pulid_generate.packed.int8_products import Twins
from pulid_generate.packed.workspace import Workspace

Compute = Literal["float", "int8"]
# a larger weight is widened and multiplied in slices of so much: 2 % slower, a third of the memory
WHOLE_BYTES = 1 << 26
INT8_TOKENS = 32  # from so many on: the modulations, of one token, spend their time in widening
INT8_ROWS = 512  # of a weight that are rounded and multiplied at a time
# Columns that share a scale in 8-bit integers. sd-cli rounds activations in blocks of 256 before K
# types and of 32 before the others; with these the results are nearer to the exact ones than its
# own, also for channels 30 times as large as their neighbours.
INT8_COLUMNS, INT8_COLUMNS_OTHERS = int8_products.COLUMNS, 512


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

    def dequantize(self, dtype: torch.dtype, workspace: Workspace | None = None) -> Tensor:
        """(R, C) in `dtype`, each number computed in float32 and rounded once. With a workspace: in
        its memory, valid until the next call.
        """
        if workspace is None:
            out = torch.empty(self.shape, dtype=dtype, device=self.data.device)
        else:
            out = workspace.take("weight", tuple(self.shape), dtype, self.data.device)
        rows = blocks.rows_at_once(self.shape[1], out.device)
        narrow = (workspace or Workspace()).take if dtype != torch.float32 else None
        for data, part in zip(self.data.split(rows), out.split(rows), strict=True):
            numbers = (
                narrow("numbers", tuple(part.shape), torch.float32, out.device) if narrow else part
            )
            blocks.fill(data, self.kind, numbers)
            if narrow:
                part.copy_(numbers)
        return out


@dataclass
class Computing:
    """What the quantised layers of one model share. budget: bytes of widened weights that may still
    be kept.
    """

    compute: Compute = "float"
    budget: int = 0
    workspace: Workspace = field(default_factory=Workspace)

    def may_keep(self, size: int) -> bool:
        """Take `size` bytes of the budget, if it has them."""
        granted = size <= self.budget
        self.budget -= size * granted
        return granted


_newest: weakref.ref[Computing] | None = None


def _shared() -> Computing:
    """What all layers share that nobody configured; gone with the last of them."""
    global _newest
    computing = _newest() if _newest is not None else None
    if computing is None:
        computing = Computing()
        _newest = weakref.ref(computing)
    return computing


class QuantizedLinear(nn.Module):
    """A linear layer whose weight stays quantised. It computes in the dtype of its input, with a
    bias of any dtype.
    """

    def __init__(self, weight: QuantizedWeight, bias: bool):
        super().__init__()
        self.kind = weight.kind
        self.out_features, self.in_features = weight.shape
        self.data: Tensor
        self.register_buffer("data", weight.data, persistent=False)
        self.bias = (
            nn.Parameter(torch.empty(self.out_features, device="meta"), requires_grad=False)
            if bias
            else None
        )
        self.computing = _shared()  # see compute_quantized
        # kept weights; no buffers, for they need not follow the module anywhere
        self.widened: Tensor | None = None
        self.twins: list[Twins] | None = None

    @property
    def weight(self) -> QuantizedWeight:
        """Not a tensor, so that code which looks at a weight's dtype before it calls the layer
        (T5's feed-forward) leaves the input alone.
        """
        return QuantizedWeight(self.data, self.kind)

    def forward(self, x: Tensor) -> Tensor:
        """(.., C) -> (.., R)."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        # reused memory is for a CPU, where a fresh page costs as much as widening, and for passes
        # that nothing looks back at
        if x.device.type != "cpu" or x.requires_grad or torch.compiler.is_compiling():
            return nn.functional.linear(x, self.weight.dequantize(x.dtype), bias)
        if self.computing.compute == "int8" and x.numel() >= INT8_TOKENS * self.in_features:
            return self._integers(x, self.computing, bias)
        return self._numbers(x, self.computing, bias)

    def _numbers(self, x: Tensor, computing: Computing, bias: Tensor | None) -> Tensor:
        size = self.out_features * self.in_features * x.dtype.itemsize
        if self.widened is None and self.twins is None and computing.may_keep(size):
            self.widened = self.weight.dequantize(x.dtype)
        if self.widened is not None and self.widened.dtype == x.dtype:
            return linear(x, self.widened, bias)
        if size <= WHOLE_BYTES:
            return linear(x, self.weight.dequantize(x.dtype, computing.workspace), bias)
        out = x.new_empty(*x.shape[:-1], self.out_features)
        rows = max(1, self.out_features * WHOLE_BYTES // size)
        for data, part in zip(self.data.split(rows), out.split(rows, -1), strict=True):
            part.copy_(
                linear(x, QuantizedWeight(data, self.kind).dequantize(x.dtype, computing.workspace))
            )
        return out if bias is None else out.add_(bias)

    def _integers(self, x: Tensor, computing: Computing, bias: Tensor | None) -> Tensor:
        workspace, tokens = computing.workspace, x.numel() // self.in_features
        numbers = workspace.take("numbers", (tokens, self.in_features), torch.float32)
        inputs = int8_products.round_twice(
            numbers.copy_(x.reshape(tokens, -1)), "inputs", workspace, self._columns
        )
        out = workspace.take("out", (self.out_features, tokens), torch.float32)
        size = 2 * self.out_features * self.in_features
        if self.twins is None and self.widened is None and computing.may_keep(size):
            self.twins = [twins.clone() for twins in self._round_twice(workspace)]
        start = 0
        for twins in self.twins or self._round_twice(workspace):
            stop = start + twins.first.shape[1]
            int8_products.product(twins, inputs, out[start:stop], workspace)
            start = stop
        result = out.t().contiguous().to(x.dtype).view(*x.shape[:-1], self.out_features)
        return result if bias is None else result.add_(bias)

    @property
    def _columns(self) -> int:
        return INT8_COLUMNS if gguf.GGML_QUANT_SIZES[self.kind][0] == 256 else INT8_COLUMNS_OTHERS

    def _round_twice(self, workspace: Workspace) -> Iterator[Twins]:
        for data in self.data.split(INT8_ROWS):
            numbers = QuantizedWeight(data, self.kind).dequantize(torch.float32, workspace)
            yield int8_products.round_twice(numbers, "weight twins", workspace, self._columns)


def compute_quantized(model: nn.Module, compute: Compute = "float", cache_bytes: int = 0) -> int:
    """Choose how the quantised layers of a model compute on a CPU.

    compute: "float", in the dtype of the activations; "int8", through 8-bit integers. cache_bytes:
    of widened weights kept from the first forward on, in the order the layers run. On another
    device it changes nothing. Returns the number of layers.
    """
    computing = Computing(compute, cache_bytes)
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    for layer in layers:
        layer.computing, layer.widened, layer.twins = computing, None, None
    return len(layers)
