"""What stands between the matrix products of a Flux block, one kernel each: norm and modulation,
gated residual, query and key norm with rotation, GELU into its place.

torch runs two to twenty kernels for each of these, which at 512x512 cost more time to start than to
run, and reads and writes every number as often. Statistics and sums are float32 throughout, so
results differ from torch's by rounding, towards the exact ones. They are launched plainly, without
a torch operator around them: what is compiled takes torch's own operations, which the compiler
fuses by itself. Knows nothing of weights or blocks: `networks.flux` decides when these run.

Shapes: B pictures, N tokens, D width, H heads of 128.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

HEAD = tl.constexpr(128)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
GELU_BLOCK = 1024  # numbers of a program


def norm_modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift, (B, N, D), a new tensor.

    x: (B, N, D), channels side by side. shift, scale: (B, 1, D), views of a longer row as they may
    be. All of one dtype of DTYPES, on a GPU.
    """
    batch, tokens, width = x.shape
    out = torch.empty(batch, tokens, width, dtype=x.dtype, device=x.device)
    if out.numel():
        _norm_modulate_kernel[(batch * tokens,)](
            x,
            shift,
            scale,
            out,
            tokens,
            x.stride(0),
            x.stride(1),
            shift.stride(0),
            scale.stride(0),
            eps,
            WIDTH=width,
            BLOCK=triton.next_power_of_2(width),
            num_warps=8,
        )
    return out


@triton.jit
def _norm_modulate_kernel(
    x,
    shift,
    scale,
    out,
    tokens,
    x_batch,
    x_token,
    shift_batch,
    scale_batch,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // tokens, row % tokens
    channels = tl.arange(0, BLOCK)
    inside = channels < WIDTH
    values = tl.load(x + batch * x_batch + token * x_token + channels, inside, 0.0).to(tl.float32)
    mean = tl.sum(values, 0) / WIDTH
    centred = tl.where(inside, values - mean, 0.0)
    variance = tl.sum(centred * centred, 0) / WIDTH
    normed = centred * (1.0 / tl.sqrt_rn(variance + eps))
    by = tl.load(scale + batch * scale_batch + channels, inside, 0.0).to(tl.float32)
    to = tl.load(shift + batch * shift_batch + channels, inside, 0.0).to(tl.float32)
    result = normed * (1.0 + by) + to
    tl.store(out + row * WIDTH + channels, result.to(out.dtype.element_ty), inside)


def add_gated(residual: Tensor, gate: Tensor, x: Tensor) -> Tensor:
    """residual + gate * x, (B, N, D), a new tensor. residual, x: (B, N, D); gate: (B, 1, D)."""
    batch, tokens, width = x.shape
    out = torch.empty(batch, tokens, width, dtype=x.dtype, device=x.device)
    if out.numel():
        _add_gated_kernel[(batch * tokens,)](
            residual,
            gate,
            x,
            out,
            tokens,
            residual.stride(0),
            residual.stride(1),
            gate.stride(0),
            x.stride(0),
            x.stride(1),
            WIDTH=width,
            BLOCK=triton.next_power_of_2(width),
            num_warps=4,
        )
    return out


@triton.jit
def _add_gated_kernel(
    residual,
    gate,
    x,
    out,
    tokens,
    residual_batch,
    residual_token,
    gate_batch,
    x_batch,
    x_token,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // tokens, row % tokens
    channels = tl.arange(0, BLOCK)
    inside = channels < WIDTH
    before = tl.load(residual + batch * residual_batch + token * residual_token + channels, inside)
    by = tl.load(gate + batch * gate_batch + channels, inside)
    more = tl.load(x + batch * x_batch + token * x_token + channels, inside)
    total = before.to(tl.float32) + by.to(tl.float32) * more.to(tl.float32)
    tl.store(out + row * WIDTH + channels, total.to(out.dtype.element_ty), inside)


def norm_rotate(
    x: Tensor,
    weight: Tensor,
    cosines: Tensor,
    sines: Tensor,
    out: Tensor,
    start: int,
    eps: float,
) -> None:
    """Heads of x, RMS-normed and turned by their token's angles, into tokens `start` on of `out`.

    x: (B, N, D), as a projection gives it. weight: (128,). cosines, sines: (M, 128) float32, of all
    tokens of `out`. out: (B, M, D), M at least start + N.
    """
    batch, tokens, width = x.shape
    if x.numel():
        _norm_rotate_kernel[(batch * tokens,)](
            x,
            weight,
            cosines,
            sines,
            out,
            tokens,
            start,
            x.stride(0),
            x.stride(1),
            out.stride(0),
            out.stride(1),
            eps,
            HEADS=width // 128,
            BLOCK=triton.next_power_of_2(width // 128),
            num_warps=4,
        )


@triton.jit
def _norm_rotate_kernel(
    x,
    weight,
    cosines,
    sines,
    out,
    tokens,
    start,
    x_batch,
    x_token,
    out_batch,
    out_token,
    eps,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // tokens, row % tokens
    heads = tl.arange(0, BLOCK)[:, None]
    pairs = tl.arange(0, HEAD // 2)[None, :]
    inside = (heads < HEADS) & (pairs < HEAD)
    at = heads * HEAD + 2 * pairs
    place = x + batch * x_batch + token * x_token + at
    real = tl.load(place, inside, 0.0).to(tl.float32)
    imaginary = tl.load(place + 1, inside, 0.0).to(tl.float32)
    power = tl.sum(real * real + imaginary * imaginary, 1) / HEAD
    factor = (1.0 / tl.sqrt_rn(power + eps))[:, None]
    real = real * factor * tl.load(weight + 2 * pairs).to(tl.float32)
    imaginary = imaginary * factor * tl.load(weight + 2 * pairs + 1).to(tl.float32)
    # a pair's two angles are equal
    angle = (start + token) * HEAD + 2 * pairs
    cosine, sine = tl.load(cosines + angle), tl.load(sines + angle)
    to = out + batch * out_batch + (start + token) * out_token + at
    kind = out.dtype.element_ty
    tl.store(to, (real * cosine - imaginary * sine).to(kind), inside)
    tl.store(to + 1, (imaginary * cosine + real * sine).to(kind), inside)


def gelu_into(x: Tensor, out: Tensor) -> None:
    """GELU by tanh of x (B, N, C) into `out`, a view (B, N, C) of a wider tensor."""
    batch, tokens, width = x.shape
    if x.numel():
        _gelu_into_kernel[(batch * tokens, triton.cdiv(width, GELU_BLOCK))](
            x,
            out,
            tokens,
            x.stride(0),
            x.stride(1),
            out.stride(0),
            out.stride(1),
            WIDTH=width,
            BLOCK=GELU_BLOCK,
            num_warps=4,
        )


@triton.jit
def _gelu_into_kernel(
    x,
    out,
    tokens,
    x_batch,
    x_token,
    out_batch,
    out_token,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // tokens, row % tokens
    channels = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channels < WIDTH
    values = tl.load(x + batch * x_batch + token * x_token + channels, inside, 0.0).to(tl.float32)
    inner = 0.7978845608028654 * (values + 0.044715 * values * values * values)
    # tanh by its definition: 1 - 2 / (exp(2 inner) + 1), which ends at 1 and -1 without overflow
    tanh = 1.0 - 2.0 / (tl.exp(2.0 * inner) + 1.0)
    result = 0.5 * values * (1.0 + tanh)
    to = out + batch * out_batch + token * out_token + channels
    tl.store(to, result.to(out.dtype.element_ty), inside)
