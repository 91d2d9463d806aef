"""Weights in ggml's quantised types: kept as the file's bytes, widened for one matrix product at a
time.

Knows layers; nothing of Flux or of files, nor of what the bytes mean (ggml_blocks). On a CPU the
layers of a model share the memory that they widen into, may keep widened weights within a budget,
and may multiply in 8-bit integers (int8_products): see `compute_quantized`.

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
from pulid_generate.kernels.availability import serves
from pulid_generate.packed import ggml_blocks as blocks
from pulid_generate.packed import int8_products, slice_threads
from pulid_generate.packed.int8_products import DoubleRounded
from pulid_generate.packed.opaque import LayersByAddress
from pulid_generate.packed.workspace import Workspace, may_reuse

# fp8 is for layers of another kind (fp8_products); those here then never run
Compute = Literal["float", "int8", "fp8"]

# a larger weight is widened and multiplied in slices of so much: 2 % slower, a third of the memory
WHOLE_BYTES = 1 << 26
# from so many on: the modulations, of one token, spend their time in widening
INT8_TOKENS = 32
# of a weight that are rounded and multiplied at a time
INT8_ROWS = 512
# Columns that share a scale in 8-bit integers: for K types, and for the others. sd-cli rounds
# activations in blocks of 256 before K types and of 32 before the others; with these the results
# are nearer to the exact ones than its own, also for channels 30 times as large as their
# neighbours.
INT8_COLUMNS, INT8_COLUMNS_OTHERS = int8_products.COLUMNS, 512


@dataclass(frozen=True)
class QuantizedWeight:
    """A matrix (R, C) in one of ggml's quantised types."""

    # uint8 (R, bytes of a row), as in the file
    data: Tensor
    kind: gguf.GGMLQuantizationType

    @property
    def shape(self) -> torch.Size:
        """(R, C)."""
        block, size = blocks.block_layout(self.kind)
        return torch.Size((self.data.shape[0], self.data.shape[1] // size * block))

    @property
    def ndim(self) -> int:
        """2, as of a matrix."""
        return 2

    def split(self, rows: Sequence[int]) -> list[QuantizedWeight]:
        """Parts of so many rows each; blocks never cross a row."""
        return [QuantizedWeight(part, self.kind) for part in self.data.split(list(rows))]

    def rows(self, indices: Tensor) -> QuantizedWeight:
        """The rows of these numbers, int64 (N,)."""
        return QuantizedWeight(self.data[indices], self.kind)

    def dequantize(self, dtype: torch.dtype, workspace: Workspace | None = None) -> Tensor:
        """(R, C) in `dtype`, each number computed in float32 and rounded once.

        workspace: memory to write into; the result is valid until its next use.
        """
        device = self.data.device
        if serves(device):
            # bit for bit the same numbers, in one pass
            from pulid_generate.kernels import ggml as kernel

            if int(self.kind) in kernel.GGML_TYPES:
                return kernel.widen_ggml(self.data, int(self.kind), dtype)
        if workspace is None:
            workspace = Workspace()
            out = torch.empty(self.shape, dtype=dtype, device=device)
        else:
            out = workspace.take("weight", tuple(self.shape), dtype, device)
        rows = blocks.rows_at_once(self.shape[1], device)
        slices = zip(self.data.split(rows), out.split(rows), strict=True)
        if device.type == "cpu" and torch.get_num_threads() > 1:
            slice_threads.for_each(self._fill, slices)
        else:
            for one in slices:
                self._fill(one, workspace)
        return out

    def _fill(self, one: tuple[Tensor, Tensor], workspace: Workspace) -> None:
        """Rows of `data`, and where their numbers go."""
        data, out = one
        if out.dtype == torch.float32:
            blocks.fill(data, self.kind, out)
            return
        numbers = workspace.take("numbers", tuple(out.shape), torch.float32, out.device)
        blocks.fill(data, self.kind, numbers)
        out.copy_(numbers)


@dataclass
class Computing:
    """What the quantised layers of one model share."""

    compute: Compute = "float"
    # bytes of widened weights that may still be kept
    budget: int = 0
    workspace: Workspace = field(default_factory=Workspace)

    def may_keep(self, size: int) -> bool:
        """Take `size` bytes of the budget, if it has them."""
        if size > self.budget:
            return False
        self.budget -= size
        return True


_default_computing: weakref.ref[Computing] | None = None


def _shared_default() -> Computing:
    """What all layers share that nobody configured; gone with the last of them."""
    global _default_computing
    computing = None if _default_computing is None else _default_computing()
    if computing is None:
        computing = Computing()
        _default_computing = weakref.ref(computing)
    return computing


class QuantizedLinear(nn.Module):
    """A linear layer whose weight stays quantised. It computes in the dtype of its input, with a
    bias of any dtype.
    """

    def __init__(self, weight: QuantizedWeight, bias: bool):
        """bias: whether there is one; it is loaded later."""
        super().__init__()
        self.kind = weight.kind
        self.out_features, self.in_features = weight.shape
        self.data: Tensor
        self.bias: nn.Parameter | None = None
        self.register_buffer("data", weight.data, persistent=False)
        if bias:
            empty = torch.empty(self.out_features, device="meta")
            self.bias = nn.Parameter(empty, requires_grad=False)
        # see compute_quantized
        self.computing = _shared_default()
        # arithmetic in which a kernel multiplies one token, see multiply_single_tokens
        self.single_tokens: tuple[torch.dtype, ...] = ()
        # kept weights; not buffers, for they need not follow the module anywhere
        self.widened: Tensor | None = None
        self.double_rounded: list[DoubleRounded] | None = None

    @property
    def weight(self) -> QuantizedWeight:
        """Not a tensor, so that code which looks at a weight's dtype before it calls the layer
        (T5's feed-forward) leaves the input alone.
        """
        return QuantizedWeight(self.data, self.kind)

    def forward(self, x: Tensor) -> Tensor:
        """(.., C) -> (.., R)."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if torch.compiler.is_compiling() and not serves(x.device):
            return _product_in_graph(x, self.data, bias, int(self.kind))
        return self.product(x, bias)

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """As `forward`, with a bias in the dtype of x."""
        if x.dtype in self.single_tokens and x.numel() == self.in_features:
            from pulid_generate.kernels.products import multiply_ggml

            return multiply_ggml(x, self.data, int(self.kind), bias)
        if not may_reuse(x):
            return nn.functional.linear(x, self.weight.dequantize(x.dtype), bias)
        if self.computing.compute == "int8" and x.numel() >= INT8_TOKENS * self.in_features:
            return self._int8_product(x, bias)
        return self._float_product(x, bias)

    def _float_product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        computing = self.computing
        size = self.out_features * self.in_features * x.dtype.itemsize
        keeps_nothing = self.widened is None and self.double_rounded is None
        if keeps_nothing and computing.may_keep(size):
            self.widened = self.weight.dequantize(x.dtype)
        if self.widened is not None and self.widened.dtype == x.dtype:
            return linear(x, self.widened, bias)
        if size <= WHOLE_BYTES:
            return linear(x, self.weight.dequantize(x.dtype, computing.workspace), bias)
        out = x.new_empty(*x.shape[:-1], self.out_features)
        rows = max(1, self.out_features * WHOLE_BYTES // size)
        for data, part in zip(self.data.split(rows), out.split(rows, -1), strict=True):
            weight = QuantizedWeight(data, self.kind).dequantize(x.dtype, computing.workspace)
            part.copy_(linear(x, weight))
        return out if bias is None else out.add_(bias)

    def _int8_product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        workspace = self.computing.workspace
        tokens = x.numel() // self.in_features
        numbers = workspace.take("numbers", (tokens, self.in_features), torch.float32)
        numbers.copy_(x.reshape(tokens, -1))
        inputs = int8_products.round_twice(numbers, "inputs", workspace, self._int8_columns)
        out = workspace.take("out", (self.out_features, tokens), torch.float32)
        size = 2 * self.out_features * self.in_features
        keeps_nothing = self.widened is None and self.double_rounded is None
        if keeps_nothing and self.computing.may_keep(size):
            self.double_rounded = [part.clone() for part in self._round_twice(workspace)]
        start = 0
        for weight in self.double_rounded or self._round_twice(workspace):
            stop = start + weight.first.shape[1]
            int8_products.product(weight, inputs, out[start:stop], workspace)
            start = stop
        result = out.t().contiguous().to(x.dtype).view(*x.shape[:-1], self.out_features)
        return result if bias is None else result.add_(bias)

    @property
    def _int8_columns(self) -> int:
        block, _ = blocks.block_layout(self.kind)
        return INT8_COLUMNS if block == blocks.K_BLOCK else INT8_COLUMNS_OTHERS

    def _round_twice(self, workspace: Workspace) -> Iterator[DoubleRounded]:
        """The weight in 8-bit integers, INT8_ROWS rows at a time, each valid until the next."""
        for data in self.data.split(INT8_ROWS):
            numbers = QuantizedWeight(data, self.kind).dequantize(torch.float32, workspace)
            yield int8_products.round_twice(
                numbers, "rounded weight", workspace, self._int8_columns
            )


def multiply_single_tokens(model: nn.Module, device: torch.device, dtype: torch.dtype) -> int:
    """Let the layers of a model that runs on `device` in `dtype` multiply a single token (the
    modulations of one picture) from their bytes, where a kernel does that rightly. Returns how many
    layers do.
    """
    if not serves(device):
        return 0
    from pulid_generate.kernels import products_check
    from pulid_generate.kernels.ggml import GGML_TYPES

    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    kinds = {int(layer.kind) for layer in layers} & GGML_TYPES.keys()
    trusted = {kind for kind in kinds if products_check.passes(device, dtype, kind)}
    chosen = [layer for layer in layers if int(layer.kind) in trusted]
    for layer in chosen:
        layer.single_tokens = (dtype,)
    return len(chosen)


_in_graphs: LayersByAddress[QuantizedLinear] = LayersByAddress()


@torch.library.custom_op("pulid_generate::quantized_linear", mutates_args=())
def _product_in_graph(x: Tensor, data: Tensor, bias: Tensor | None, kind: int) -> Tensor:
    """x W^T + bias as an operator that torch.compile does not look into."""
    layer = _in_graphs.find(data)
    if layer is not None:
        return layer.product(x, bias)
    weight = QuantizedWeight(data, gguf.GGMLQuantizationType(kind))
    return nn.functional.linear(x, weight.dequantize(x.dtype), bias)


@_product_in_graph.register_fake
def _(x: Tensor, data: Tensor, bias: Tensor | None, kind: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], data.shape[0])


def show_to_graphs(layer: QuantizedLinear) -> None:
    """Compiled graphs multiply with this layer as it multiplies by itself."""
    _in_graphs.remember(layer)


def compute_quantized(model: nn.Module, compute: Compute = "float", cache_bytes: int = 0) -> int:
    """Choose how the quantised layers of a model compute on a CPU; on another device it changes
    nothing.

    compute: "float", in the dtype of the activations; "int8", through 8-bit integers. cache_bytes:
    of widened weights kept from the first forward on, in the order the layers run. Returns the
    number of layers.
    """
    computing = Computing(compute, cache_bytes)
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    for layer in layers:
        layer.computing = computing
        layer.widened = layer.double_rounded = None
    return len(layers)
