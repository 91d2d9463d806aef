"""Matrix products through 8-bit integers that keep about 12 bits of their inputs: every row is
rounded twice, the other way the second time.

Knows matrices; nothing of layers or files. For processors whose 8-bit products (VNNI) are several
times faster than float32 ones.

A row x is scaled to at most LIMIT and written as x1 + a, x1 its nearest integers. One product of
such integers, x1 . w1, has an error of first order, a . w1 + x1 . b. The second rounding is x2 = x1
+ round(SPREAD * a), which moves the same error SPREAD times as far. So

    x . w  ~  ((SPREAD - 1) x1 . w1  +  x2 . w2) / SPREAD

takes the first order out (as Richardson's extrapolation does): what is left is SPREAD * a . b and
the rounding of SPREAD * a, both small. Two integer products do what splitting both sides into high
and low bytes needs three for. Integers are exact: their order changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pulid_generate.packed.workspace import Workspace

# a power of two. 8: 1.3 times the error on Gaussian numbers; 32: 1.8 times (SPREAD * a . b grows)
SPREAD = 16
# |x1| <= LIMIT, |x2 - x1| <= SPREAD / 2
LIMIT = 127 - SPREAD // 2
# at most, that share a scale: 16 * 1024 * 127 * 127 fits int32
COLUMNS = 1024
# stands for the largest number of a row of zeros: no division by 0
TINY = 1e-30


@dataclass(frozen=True)
class DoubleRounded:
    """A matrix (R, C) whose rows are rounded twice, in G groups of columns."""

    # int8 (G, R, C / G), both
    first: Tensor
    second: Tensor
    # float32 (G, R), of (SPREAD - 1) first + second
    scale: Tensor

    def clone(self) -> DoubleRounded:
        """A copy in memory of its own."""
        return DoubleRounded(self.first.clone(), self.second.clone(), self.scale.clone())


def round_twice(
    numbers: Tensor, name: str, workspace: Workspace, columns_at_most: int = COLUMNS
) -> DoubleRounded:
    """Float32 (R, C), which is overwritten -> its rows rounded twice, in the workspace's memory,
    valid until the same name is rounded again.

    columns_at_most: that share a scale; an outlier coarsens only its own. Both sides of a product
    must agree on it.
    """
    rows, columns = numbers.shape
    width = min(columns, columns_at_most)
    while columns % width:
        width -= 1
    groups = columns // width
    parts = numbers.view(rows, groups, width)
    largest = torch.maximum(parts.amax(2), parts.amin(2).neg_()).clamp_min_(TINY)
    # SPREAD x, to the nearest integer
    parts.mul_((LIMIT * SPREAD / largest)[:, :, None]).round_()
    fine = workspace.take("fine", parts.shape, torch.int16).copy_(parts)
    coarse = torch.add(fine, SPREAD // 2, out=workspace.take("coarse", parts.shape, torch.int16))
    coarse.bitwise_right_shift_(SPREAD.bit_length() - 1)
    first, second = workspace.take(name, (2, groups, rows, width), torch.int8)
    first.transpose(0, 1).copy_(coarse)
    second.transpose(0, 1).copy_(fine.sub_(coarse, alpha=SPREAD - 1))
    return DoubleRounded(first, second, (largest / (LIMIT * SPREAD)).t().contiguous())


def product(weight: DoubleRounded, x: DoubleRounded, out: Tensor, workspace: Workspace) -> None:
    """weight (R, C), x (M, C), grouped alike -> weight x^T into `out`, float32 (R, M)."""
    sums = workspace.take("sums", out.shape, torch.int32)
    fine = workspace.take("fine sums", out.shape, torch.int32)
    for group in range(len(x.first)):
        torch._int_mm(weight.first[group], x.first[group].t(), out=sums)
        torch._int_mm(weight.second[group], x.second[group].t(), out=fine)
        fine.add_(sums, alpha=SPREAD - 1)
        # the first group writes the result, the others are added to it from the memory of the sums
        numbers = out if group == 0 else sums.view(torch.float32)
        numbers.copy_(fine)
        # the result is sums / SPREAD in units of the two scales, each SPREAD times too fine
        numbers.mul_(weight.scale[group, :, None] * SPREAD).mul_(x.scale[group])
        if group:
            out.add_(numbers)
