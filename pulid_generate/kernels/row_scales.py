"""Rows of activations in fp8, each with a scale of its own, in one kernel.

Knows nothing of layers: `packed.fp8_products` says when this runs, and what it computes in torch.

Shapes: M tokens, C channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST = tl.constexpr(448.0)  # of float8_e4m3fn


def quantize_rows(x: Tensor, smallest: float) -> tuple[Tensor, Tensor]:
    """x (M, C), on a GPU -> (float8_e4m3fn (M, C), float32 (M, 1)), whose product is about x.

    smallest: the least scale, for rows of zeros.
    """
    tokens, width = x.shape
    out = torch.empty(tokens, width, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(tokens, 1, dtype=torch.float32, device=x.device)
    if x.numel():
        _quantize_rows_kernel[(tokens,)](
            x,
            out,
            scales,
            x.stride(0),
            smallest,
            WIDTH=width,
            BLOCK=min(triton.next_power_of_2(width), 4096),
            num_warps=8,
        )
    return out, scales


@triton.jit
def _quantize_rows_kernel(
    x, out, scales, x_token, smallest, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    largest = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, WIDTH, BLOCK):
        channels = start + tl.arange(0, BLOCK)
        values = tl.load(x + row * x_token + channels, channels < WIDTH, 0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.abs(values))
    scale = tl.maximum(tl.max(largest, 0) / LARGEST, smallest)
    tl.store(scales + row, scale)
    # the second reading comes out of the cache
    for start in range(0, WIDTH, BLOCK):
        channels = start + tl.arange(0, BLOCK)
        inside = channels < WIDTH
        values = tl.load(x + row * x_token + channels, inside, 0.0).to(tl.float32)
        rounded = tl.minimum(tl.maximum(values / scale, -LARGEST), LARGEST)
        tl.store(out + row * WIDTH + channels, rounded.to(out.dtype.element_ty), inside)
