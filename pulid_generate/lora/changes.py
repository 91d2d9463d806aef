"""What a LoRA file adds to one linear layer: a matrix of R x C in one of the forms that trainers
store, and what stands beside it.

Every form multiplies by itself, so that no matrix of the layer's size need be kept. Knows tensors;
no file and no name of a layer but those that share a norm.

Shapes: C inputs, R outputs, r a rank.

Sources: Hu et al., LoRA (arXiv 2106.09685); Hyeon-Woo et al., FedPara (arXiv 2108.06098), which
LyCORIS calls LoHa; Yeh et al., LyCORIS (arXiv 2309.14859: LoKr); Liu et al., DoRA (arXiv
2402.09353). Where files leave something open, as ComfyUI comfy/weight_adapter/{loha,lokr,base}.py
reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

# rows from .. up to ..
Ranges = Sequence[tuple[int, int]]
# Columns of a LoHa as one low-rank product: the product of its two ranks. Above it its matrix is
# made anew in every forward, which costs less than to keep it.
MAX_COLUMNS = 64


class Matrix(Protocol):
    """What is added to the output of one layer, by itself."""

    @property
    def shape(self) -> tuple[int, int]:
        """(R, C)."""

    @property
    def numbers(self) -> int:
        """How many it keeps in memory."""

    @property
    def is_nothing(self) -> bool:
        """Whether it is zero."""

    def rows(self, ranges: Ranges) -> Matrix:
        """The same for these outputs, in this order."""

    def dense(self) -> Tensor:
        """The matrix, (R, C) float32."""

    def ready(self, dtype: torch.dtype, device: torch.device | str, weight: float) -> Matrix:
        """The same times a weight, in the dtype and where a layer's input is."""

    def apply(self, x: Tensor) -> Tensor:
        """x (.., C) -> (.., R)."""


@dataclass(frozen=True)
class Product:
    """Low rank: y += scale * (x down^T) up^T."""

    # (r, C) and (R, r), as stored
    down: Tensor
    up: Tensor
    # alpha / r
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]

    @property
    def numbers(self) -> int:
        return self.down.numel() + self.up.numel()

    @property
    def is_nothing(self) -> bool:
        return not self.scale or not self.up.float().any()

    def rows(self, ranges: Ranges) -> Product:
        return replace(self, up=_rows(self.up, ranges))

    def dense(self) -> Tensor:
        return self.scale * self.up.float() @ self.down.float()

    def ready(self, dtype: torch.dtype, device: torch.device | str, weight: float) -> Product:
        up = self.up.to(device).float() * (self.scale * weight)
        return Product(self.down.to(device, dtype), up.to(dtype), 1.0)

    def apply(self, x: Tensor) -> Tensor:
        return linear(linear(x, self.down), self.up)


@dataclass(frozen=True)
class Hadamard:
    """LoHa: the product, number by number, of two low-rank matrices."""

    # (R, r), (r, C), twice
    a1: Tensor
    b1: Tensor
    a2: Tensor
    b2: Tensor
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.a1.shape[0], self.b1.shape[1]

    @property
    def numbers(self) -> int:
        return sum(tensor.numel() for tensor in (self.a1, self.b1, self.a2, self.b2))

    @property
    def is_nothing(self) -> bool:
        return not self.scale or not (self.a1.float().any() and self.a2.float().any())

    def rows(self, ranges: Ranges) -> Hadamard:
        return replace(self, a1=_rows(self.a1, ranges), a2=_rows(self.a2, ranges))

    def dense(self) -> Tensor:
        first, second = self.a1.float() @ self.b1.float(), self.a2.float() @ self.b2.float()
        return self.scale * first * second

    def as_product(self) -> Product | None:
        """The same as one low-rank product of r1 * r2 columns, exactly; None for too many.

        (a1 b1)_ij (a2 b2)_ij = sum over k, l of (a1_ik a2_il) (b1_kj b2_lj).
        """
        if self.a1.shape[1] * self.a2.shape[1] > MAX_COLUMNS:
            return None
        up = torch.einsum("rk,rl->rkl", self.a1.float(), self.a2.float()).flatten(1)
        down = torch.einsum("kc,lc->klc", self.b1.float(), self.b2.float()).flatten(0, 1)
        return Product(down, up, self.scale)

    def ready(self, dtype: torch.dtype, device: torch.device | str, weight: float) -> Hadamard:
        """Its factors stay in float32: the matrix is rounded once."""
        a1, b1 = self.a1.to(device).float(), self.b1.to(device).float()
        a2, b2 = self.a2.to(device).float(), self.b2.to(device).float()
        return Hadamard(a1, b1, a2, b2, self.scale * weight)

    def apply(self, x: Tensor) -> Tensor:
        return linear(x, self.dense().to(x.dtype))


@dataclass(frozen=True)
class Kronecker:
    """LoKr: the Kronecker product of two matrices, of which some rows are kept."""

    # (a, b) and (c, d): the whole product is (a * c, b * d)
    left: Tensor
    right: Tensor
    scale: float
    # rows of the whole product
    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def whole(cls, left: Tensor, right: Tensor, scale: float) -> Kronecker:
        """All rows."""
        return cls(left, right, scale, ((0, left.shape[0] * right.shape[0]),))

    @property
    def shape(self) -> tuple[int, int]:
        outputs = sum(stop - start for start, stop in self.ranges)
        return outputs, self.left.shape[1] * self.right.shape[1]

    @property
    def numbers(self) -> int:
        return self.left.numel() + self.right.numel()

    @property
    def is_nothing(self) -> bool:
        return not self.scale or not (self.left.float().any() and self.right.float().any())

    def rows(self, ranges: Ranges) -> Kronecker:
        """Of a whole product."""
        return replace(self, ranges=tuple(ranges))

    def dense(self) -> Tensor:
        return _rows(self.scale * torch.kron(self.left.float(), self.right.float()), self.ranges)

    def ready(self, dtype: torch.dtype, device: torch.device | str, weight: float) -> Kronecker:
        left = (self.left.to(device).float() * (self.scale * weight)).to(dtype)
        return Kronecker(left, self.right.to(device, dtype), 1.0, self.ranges)

    def apply(self, x: Tensor) -> Tensor:
        """kron(left, right) x = left X right^T, X being x as (b, d)."""
        height = self.right.shape[0]
        columns = x.unflatten(-1, (self.left.shape[1], self.right.shape[1]))
        half = linear(columns, self.right)
        parts = []
        for start, stop in self.ranges:
            first, last = start // height, -(-stop // height)
            block = torch.matmul(self.left[first:last], half).flatten(-2)
            parts.append(block[..., start - first * height : stop - first * height])
        return torch.cat(parts, dim=-1)


@dataclass(frozen=True)
class Biased:
    """A matrix, and what is added to the layer's bias."""

    matrix: Matrix
    # (R,)
    bias: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    @property
    def numbers(self) -> int:
        return self.matrix.numbers + self.bias.numel()

    @property
    def is_nothing(self) -> bool:
        return self.matrix.is_nothing and not self.bias.float().any()

    def rows(self, ranges: Ranges) -> Biased:
        return Biased(self.matrix.rows(ranges), _rows(self.bias, ranges))

    def dense(self) -> Tensor:
        return self.matrix.dense()

    def ready(self, dtype: torch.dtype, device: torch.device | str, weight: float) -> Biased:
        bias = (self.bias.to(device).float() * weight).to(dtype)
        return Biased(self.matrix.ready(dtype, device, weight), bias)

    def apply(self, x: Tensor) -> Tensor:
        return self.matrix.apply(x) + self.bias


@dataclass(frozen=True)
class Decomposed:
    """DoRA: the layer's weight and its change together, scaled to lengths that were learnt.

    W' = magnitude * (W + matrix) / |W + matrix|, the lengths being those of rows (an output each)
    or of columns.
    """

    matrix: Matrix
    # (R,) of rows, (C,) of columns
    magnitude: Tensor
    of_rows: bool
    # Of columns: the layers that one matrix is for, whose columns together have one length, each
    # with its part; a fused q, k, v is three layers here.
    shared: tuple[tuple[str, Matrix], ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    @property
    def numbers(self) -> int:
        return self.matrix.numbers + self.magnitude.numel()

    @property
    def is_nothing(self) -> bool:
        return False

    def rows(self, ranges: Ranges) -> Decomposed:
        magnitude = _rows(self.magnitude, ranges) if self.of_rows else self.magnitude
        return replace(self, matrix=self.matrix.rows(ranges), magnitude=magnitude)


Change = Matrix | Decomposed


def _rows(tensor: Tensor, ranges: Ranges) -> Tensor:
    parts = [tensor[start:stop] for start, stop in ranges]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
