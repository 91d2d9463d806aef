"""PuLID's folded layer and its addition to the image tokens, in two kernels.

    out = total + weight * share * softmax_n(rstd(img) * (img a^T) + c) b^T

The first kernel makes each image token's statistics, logits and softmax; the second multiplies by
`b` and adds. What `injection.attention.FoldedAttention` rounds to 16 bits in between (the logits,
CA itself) stays float32 here, so results differ from it by rounding, towards the exact ones. Knows
nothing of people, steps or hooks.

Shapes: B batch, L image tokens, N identity tokens, H heads, D Flux width. Source of the formula:
docs/architecture.md, Folding.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

EPS = tl.constexpr(1e-5)  # of norm2, as in injection.attention
STATISTICS = tl.constexpr(256)  # channels at a time
MOST_IDENTITY_TOKENS = 256  # a head's logits lie in one tile; from 128 tokens on nobody folds
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Tile:
    """How a matrix product is cut up for the programs of a kernel."""

    rows: int  # image tokens of a program
    columns: int  # of the product
    depth: int  # of a step through what is summed over
    warps: int
    stages: int  # steps whose loads are under way at the same time


# The fastest of some twenty on an H200, with 16 heads, 32 identity tokens and width 3072
ATTEND = Tile(rows=64, columns=256, depth=64, warps=8, stages=3)
ATTEND_FEW = Tile(rows=64, columns=64, depth=128, warps=4, stages=3)
ADD = Tile(rows=128, columns=128, depth=64, warps=8, stages=3)
ADD_FEW = Tile(rows=64, columns=128, depth=64, warps=4, stages=3)
FEW_TOKENS = 2048  # below, larger tiles would leave processors of the card idle
SHARED_MEMORY = 99 << 10  # bytes a program may have on the smallest cards that are served


def add_identity(
    total: Tensor,
    img_tokens: Tensor,
    a: Tensor,
    c: Tensor,
    b: Tensor,
    heads: int,
    weight: Tensor,
    share: Tensor | None = None,
) -> Tensor:
    """What one person adds: total + weight * share * CA(img_tokens), (B, L, D), a new tensor.

    total, img_tokens: (B, L, D) bfloat16, float16 or float32, on a GPU; they may be one tensor, and
        views of a longer sequence whose channels lie side by side.
    a, c, b: the folded layer, (H * N, D), (H * N,) float32, (D, H * N), in the dtype of img_tokens.
    weight: float32, one number, on the GPU, so that another weight neither waits for the card nor
        compiles anything. CA is computed at weight 0 as well, and a NaN in it shows.
    share: None for 1, or float32 (B, L) from 0 to 1, expanded as need be (a region is the same for
        every picture, a batch element for every token). Where it is 0, nothing is added.
    Raises ValueError for shapes and dtypes that do not belong together.
    """
    _check(total, img_tokens, a, c, b, heads, share)
    if torch.compiler.is_compiling():
        return _operator(total, img_tokens, a, c, b, heads, weight, share)
    return _launch(total, img_tokens, a, c, b, heads, weight, share, _attend, _add)


def _check(total, img_tokens, a, c, b, heads, share) -> None:
    batch, length, width = img_tokens.shape
    columns = a.shape[0]
    shapes = (tuple(total.shape), tuple(a.shape), tuple(c.shape), tuple(b.shape))
    expected = ((batch, length, width), (columns, width), (columns,), (width, columns))
    if shapes != expected:
        raise ValueError(f"total, a, c, b of shapes {shapes}: expected {expected}")
    if columns % heads or not 0 < columns // heads <= MOST_IDENTITY_TOKENS:
        raise ValueError(
            f"{columns} folded rows for {heads} heads: "
            f"expected 1 to {MOST_IDENTITY_TOKENS} for each"
        )
    if share is not None and tuple(share.shape) != (batch, length):
        raise ValueError(
            f"share of shape {tuple(share.shape)}: expected {(batch, length)}, expanded"
        )
    if img_tokens.dtype not in DTYPES or {total.dtype, a.dtype, b.dtype} != {img_tokens.dtype}:
        raise ValueError(
            f"total, img_tokens, a, b of {total.dtype}, {img_tokens.dtype}, {a.dtype}, {b.dtype}: "
            "expected bfloat16, float16 or float32, one for all"
        )


@triton_op("pulid_generate::add_identity", mutates_args=())
def _operator(
    total: Tensor,
    img_tokens: Tensor,
    a: Tensor,
    c: Tensor,
    b: Tensor,
    heads: int,
    weight: Tensor,
    share: Tensor | None,
) -> Tensor:
    attend, add = wrap_triton(_attend), wrap_triton(_add)
    return _launch(total, img_tokens, a, c, b, heads, weight, share, attend, add)


def _launch(total, img_tokens, a, c, b, heads, weight, share, attend, add) -> Tensor:
    total, img_tokens = (x if x.stride(2) == 1 else x.contiguous() for x in (total, img_tokens))
    batch, length, width = img_tokens.shape
    columns, tokens = a.shape[0], batch * length
    out = torch.empty(batch, length, width, dtype=total.dtype, device=total.device)
    if out.numel() == 0:
        return out
    of_head = triton.next_power_of_2(columns // heads)
    first, second = tiles(tokens, of_head, img_tokens.dtype, _shared_memory(img_tokens.device))
    attention = torch.empty(tokens, columns, dtype=img_tokens.dtype, device=img_tokens.device)
    shared = share is not None
    # a kernel's argument must be a tensor, read or not
    share = share if shared else c[:1].expand(batch, length)
    attend[(triton.cdiv(heads * of_head, first.columns), triton.cdiv(tokens, first.rows))](
        img_tokens,
        a.contiguous(),
        c.contiguous(),
        share,
        attention,
        tokens,
        length,
        img_tokens.stride(0),
        img_tokens.stride(1),
        share.stride(0),
        share.stride(1),
        WIDTH=width,
        HEADS=heads,
        N=columns // heads,
        OF_HEAD=of_head,
        SHARED=shared,
        ROWS=first.rows,
        COLUMNS=first.columns,
        DEPTH=first.depth,
        num_warps=first.warps,
        num_stages=first.stages,
    )
    add[(triton.cdiv(width, second.columns), triton.cdiv(tokens, second.rows))](
        attention,
        b.contiguous(),
        total,
        weight,
        share,
        out,
        tokens,
        length,
        total.stride(0),
        total.stride(1),
        share.stride(0),
        share.stride(1),
        WIDTH=width,
        SUMMED=columns,
        SHARED=shared,
        ROWS=second.rows,
        COLUMNS=second.columns,
        DEPTH=second.depth,
        num_warps=second.warps,
        num_stages=second.stages,
    )
    return out


@functools.lru_cache
def tiles(tokens: int, of_head: int, dtype: torch.dtype, shared_memory: int) -> tuple[Tile, Tile]:
    """The tiles of both kernels. of_head: identity tokens, rounded up to a power of two."""
    few = tokens < FEW_TOKENS
    attend, add = (ATTEND_FEW, ADD_FEW) if few else (ATTEND, ADD)
    attend = replace(attend, columns=max(attend.columns, of_head))
    return (
        _fitted(attend, dtype.itemsize, shared_memory),
        _fitted(add, dtype.itemsize, shared_memory),
    )


def _fitted(tile: Tile, itemsize: int, shared_memory: int) -> Tile:
    """The tile with as many stages as the card's shared memory has room for."""
    if itemsize == 4:
        tile = replace(tile, depth=tile.depth // 2)
    stage = (tile.rows + tile.columns) * tile.depth * itemsize
    return replace(tile, stages=max(1, min(tile.stages, shared_memory // stage)))


@functools.lru_cache
def _shared_memory(device: torch.device) -> int:
    if device.type != "cuda":  # in Triton's interpreter
        return SHARED_MEMORY
    properties = torch.cuda.get_device_properties(device)
    return getattr(properties, "shared_memory_per_block_optin", SHARED_MEMORY)


@triton.jit
def _attend(
    img_tokens,
    a,
    c,
    share,
    attention,
    tokens,
    length,
    stride_batch,
    stride_token,
    share_batch,
    share_token,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    N: tl.constexpr,
    OF_HEAD: tl.constexpr,
    SHARED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """attention (tokens, H * N): softmax weights of COLUMNS / OF_HEAD heads for ROWS tokens."""
    token = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inside = token < tokens
    picture, place = token // length, token % length
    if SHARED:
        part = tl.load(share + picture * share_batch + place * share_token, mask=inside, other=0.0)
        if tl.max(part, 0) <= 0:
            return
    x = (
        img_tokens
        + (picture.to(tl.int64) * stride_batch + place.to(tl.int64) * stride_token)[:, None]
    )
    # A loop of its own, though the next one loads the same tokens: of a tile that feeds a product
    # and something else, Triton (3.6 to 3.9) keeps one copy too few in shared memory, and on Hopper
    # the next tokens are loaded over those that the product is still reading
    sums = tl.zeros((ROWS,), tl.float32)
    squares = tl.zeros((ROWS,), tl.float32)
    for start in range(0, WIDTH, STATISTICS):
        channel = start + tl.arange(0, STATISTICS)
        read = inside[:, None] & (channel < WIDTH)[None, :]
        numbers = tl.load(x + channel[None, :], mask=read, other=0.0).to(tl.float32)
        sums += tl.sum(numbers, 1)
        squares += tl.sum(numbers * numbers, 1)

    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    head, n = column // OF_HEAD, column % OF_HEAD
    live = (n < N) & (head < HEADS)
    row = head * N + n
    weights = a + tl.where(live, row, 0)[None, :] * WIDTH
    logits = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, WIDTH, DEPTH):
        channel = start + tl.arange(0, DEPTH)
        if WIDTH % DEPTH == 0:
            x_tile = tl.load(x + channel[None, :], mask=inside[:, None], other=0.0)
            a_tile = tl.load(weights + channel[:, None])
        else:
            there = channel < WIDTH
            x_tile = tl.load(x + channel[None, :], mask=inside[:, None] & there[None, :], other=0.0)
            a_tile = tl.load(weights + channel[:, None], mask=there[:, None], other=0.0)
        logits = tl.dot(x_tile, a_tile, logits, input_precision="ieee")

    # rstd multiplies the logits, not the tokens, which it would round to 16 bits once more
    mean = sums / WIDTH
    # a NaN must stay one: the hardware's maximum would turn it into 0
    variance = tl.maximum(squares / WIDTH - mean * mean, 0.0, propagate_nan=tl.PropagateNan.ALL)
    logits *= (1.0 / tl.sqrt(variance + EPS))[:, None]
    logits += tl.load(c + row, mask=live, other=0.0)[None, :]
    if OF_HEAD != N:
        # not where no head is at all, or 0 / 0 would come up
        logits = tl.where((n < N)[None, :], logits, float("-inf"))
    by_head = tl.reshape(logits, (ROWS, COLUMNS // OF_HEAD, OF_HEAD))
    by_head = tl.exp(by_head - tl.max(by_head, 2)[:, :, None])
    by_head = by_head / tl.sum(by_head, 2)[:, :, None]
    result = tl.reshape(by_head, (ROWS, COLUMNS)).to(attention.dtype.element_ty)
    to = attention + token.to(tl.int64)[:, None] * (HEADS * N) + row[None, :]
    tl.store(to, result, mask=inside[:, None] & live[None, :])


@triton.jit
def _add(
    attention,
    b,
    total,
    weight,
    share,
    out,
    tokens,
    length,
    stride_batch,
    stride_token,
    share_batch,
    share_token,
    WIDTH: tl.constexpr,
    SUMMED: tl.constexpr,
    SHARED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """out (tokens, D) = total + weight * share * attention b^T, a tile of ROWS x COLUMNS."""
    token = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inside = token < tokens
    picture, place = token // length, token % length
    channel = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    stored = inside[:, None] & (channel < WIDTH)[None, :]
    offset = picture.to(tl.int64) * stride_batch + place.to(tl.int64) * stride_token
    before = total + offset[:, None] + channel[None, :]
    to = out + token.to(tl.int64)[:, None] * WIDTH + channel[None, :]
    if SHARED:
        part = tl.load(share + picture * share_batch + place * share_token, mask=inside, other=0.0)
        if tl.max(part, 0) <= 0:
            tl.store(to, tl.load(before, mask=stored), mask=stored)
            return

    weights = attention + token.to(tl.int64)[:, None] * SUMMED
    values = b + tl.where(channel < WIDTH, channel, 0)[None, :] * SUMMED
    added = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, SUMMED, DEPTH):
        k = start + tl.arange(0, DEPTH)
        if SUMMED % DEPTH == 0:
            weight_tile = tl.load(weights + k[None, :], mask=inside[:, None], other=0.0)
            value_tile = tl.load(values + k[:, None])
        else:
            there = k < SUMMED
            seen = inside[:, None] & there[None, :]
            weight_tile = tl.load(weights + k[None, :], mask=seen, other=0.0)
            value_tile = tl.load(values + k[:, None], mask=there[:, None], other=0.0)
        added = tl.dot(weight_tile, value_tile, added, input_precision="ieee")

    added *= tl.load(weight)
    numbers = tl.load(before, mask=stored, other=0.0).to(tl.float32)
    if SHARED:
        # tokens outside are left alone, whatever was read for them: 0 times NaN is NaN
        sums = numbers + added * part[:, None]
        numbers = tl.where((part > 0)[:, None], sums, numbers)
    else:
        numbers += added
    tl.store(to, numbers.to(out.dtype.element_ty), mask=stored)
