"""One token times a quantised matrix, from its bytes: the modulations of a single picture.

Widening such a matrix first writes and reads back several times what the file holds. Each number is
rounded to the dtype of the tokens, as the widened matrix would be; sums run in float32. So results
differ from the widened product's by the order of the sums alone.

Shapes: R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from pulid_generate.kernels.ggml import GGML_TYPES, numbers_of

MOST_TOKENS = 1  # each would take the bytes apart anew: with two, widening once is as fast
ROWS, COLUMNS, WARPS = 4, 512, 4  # of a program; columns at a time


def multiply_ggml(x: Tensor, data: Tensor, kind: int, bias: Tensor | None = None) -> Tensor:
    """x W^T + bias.

    x: (.., C) bfloat16, float16 or float32, on a GPU, at most MOST_TOKENS rows of C numbers.
    data: uint8 (R, bytes of a row). kind: ggml's type number, a key of GGML_TYPES.
    bias: None, or (R,) of any float dtype. Returns (.., R) in the dtype of x.
    Raises ValueError for more tokens.
    """
    if x.numel() > MOST_TOKENS * x.shape[-1]:
        raise ValueError(f"tokens of shape {tuple(x.shape)}: expected at most {MOST_TOKENS} rows")
    if torch.compiler.is_compiling():
        return _operator(x, data, kind, bias)
    return _launch(x, data, kind, bias, _multiply)


@triton_op("pulid_generate::multiply_ggml", mutates_args=())
def _operator(x: Tensor, data: Tensor, kind: int, bias: Tensor | None) -> Tensor:
    return _launch(x, data, kind, bias, wrap_triton(_multiply))


def _launch(x: Tensor, data: Tensor, kind: int, bias: Tensor | None, kernel) -> Tensor:
    layout = GGML_TYPES[kind]
    x, data = x.contiguous(), data.contiguous()
    rows, blocks = data.shape[0], data.shape[1] // layout.size
    tokens = x.numel() // x.shape[-1]
    out = torch.empty(*x.shape[:-1], rows, dtype=x.dtype, device=x.device)
    if out.numel() == 0:
        return out
    kernel[(triton.cdiv(rows, ROWS), tokens)](
        x,
        data,
        x if bias is None else bias.contiguous(),
        out,
        rows,
        blocks,
        BIAS=bias is not None,
        KIND=kind,
        GROUPS=layout.groups,
        IN_GROUP=layout.in_group,
        SIZE=layout.size,
        ROWS=ROWS,
        BLOCKS=COLUMNS // layout.numbers,
        num_warps=WARPS,
    )
    return out


@triton.jit
def _multiply(
    x,
    data,
    bias,
    out,
    rows,
    blocks,
    BIAS: tl.constexpr,
    KIND: tl.constexpr,
    GROUPS: tl.constexpr,
    IN_GROUP: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """ROWS numbers of one token. blocks: in a row of `data`, taken BLOCKS at a time."""
    token = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    # rows and blocks past the end repeat the last one, and do not count
    row_start = data + tl.minimum(row, rows - 1).to(tl.int64) * blocks * SIZE
    row_start = row_start[:, None, None, None]
    group = tl.arange(0, GROUPS)[None, None, :, None]
    place = group * IN_GROUP + tl.arange(0, IN_GROUP)[None, None, None, :]
    inputs_start = x + token.to(tl.int64) * blocks * (GROUPS * IN_GROUP)
    sums = tl.zeros((ROWS, BLOCKS, GROUPS, IN_GROUP), tl.float32)
    for first in range(0, blocks, BLOCKS):
        block = first + tl.arange(0, BLOCKS)[None, :, None, None]
        there = block < blocks
        start = row_start + tl.minimum(block, blocks - 1) * SIZE
        weights = numbers_of(start, group, place, KIND).to(x.dtype.element_ty)
        at = inputs_start + block * (GROUPS * IN_GROUP) + place
        inputs = tl.load(at, mask=there, other=0.0)
        # not 0 times what is repeated, which may be NaN
        sums += tl.where(there, weights.to(tl.float32) * inputs.to(tl.float32), 0.0)
    result = tl.sum(tl.reshape(sums, (ROWS, BLOCKS * GROUPS * IN_GROUP)), 1)
    stored = row < rows
    if BIAS:
        result += tl.load(bias + row, mask=stored, other=0.0).to(tl.float32)
    tl.store(out + token * rows + row, result.to(out.dtype.element_ty), mask=stored)
