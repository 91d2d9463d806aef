"""Rows of numbers -> 8-bit floating point with a scale for each row, one kernel.

torch runs six kernels for it, and writes float32 copies in between. Knows nothing of layers.

Shapes: M rows (tokens), C columns.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST = tl.constexpr(448.0)  # of e4m3
SMALLEST = tl.constexpr(1e-12)  # that a row's largest number is taken for: a row of zeros
COLUMNS = 1024  # at a time


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers (M, C) float8_e4m3fn and scales (M, 1) float32, so that numbers * scales is x.

    x: (M, C) bfloat16, float16 or float32, on a GPU that has e4m3 (capability 8.9 or newer).
    """
    x = x.contiguous()
    rows, columns = x.shape
    out = torch.empty(rows, columns, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    if out.numel():
        _quantize_rows_kernel[(rows,)](x, out, scales, columns, BLOCK=COLUMNS, num_warps=4)
    return out, scales


@triton.jit
def _quantize_rows_kernel(x, out, scales, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    largest = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, columns, BLOCK):
        channel = start + tl.arange(0, BLOCK)
        numbers = tl.load(x + row * columns + channel, channel < columns, 0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.abs(numbers))
    scale = tl.maximum(tl.max(largest, 0), SMALLEST) / LARGEST
    for start in range(0, columns, BLOCK):
        channel = start + tl.arange(0, BLOCK)
        inside = channel < columns
        numbers = tl.load(x + row * columns + channel, inside, 0.0).to(tl.float32) / scale
        # a NaN stays one: e4m3 has it
        numbers = tl.clamp(numbers, -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL)
        tl.store(out + row * columns + channel, numbers.to(out.dtype.element_ty), inside)
    tl.store(scales + row, scale)
