"""Blocks of ggml's quantised types -> numbers, one kernel for a matrix.

Bit for bit what `packed.ggml_blocks` computes: each number in float32, rounded once to the dtype
that is asked for. Knows bytes and numbers; nothing of layers or files.

That equality survives whatever the compiler does with a multiplication followed by an addition.
PTX contracts `a * b - c` into one fused operation with one rounding, where torch's separate passes
round twice, which for arbitrary floats gives other bits. Here every product is exact: a float16
scale has 11 significant bits, a quantised scale at most 7 (Q6_K's -128 has one) and a quant at most
5 (Q6_K's -32 has one; Q8_0 has 8, but no quantised scale), so that no product needs more than
float32's 24. One rounding is left, that of the last addition, and it is the same fused or not. A
type whose products are longer needs an explicit rounding here.

Layouts: ggml/src/ggml-common.h (block_q4_0 .. block_q6_K) and the dequantize_row functions of
ggml-quants.c. Shapes: R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton


class BlockLayout(NamedTuple):
    """A block: groups of numbers that share a scale, in `size` bytes."""

    groups: int
    in_group: int
    size: int

    @property
    def numbers(self) -> int:
        """In a block."""
        return self.groups * self.in_group


# By ggml's type number (enum ggml_type in ggml.h)
GGML_TYPES = {
    2: BlockLayout(1, 32, 18),
    3: BlockLayout(1, 32, 20),
    6: BlockLayout(1, 32, 22),
    7: BlockLayout(1, 32, 24),
    8: BlockLayout(1, 32, 34),
    10: BlockLayout(16, 16, 84),
    11: BlockLayout(16, 16, 110),
    12: BlockLayout(8, 32, 144),
    13: BlockLayout(8, 32, 176),
    14: BlockLayout(16, 16, 210),
}
Q4_0 = tl.constexpr(2)
Q4_1 = tl.constexpr(3)
Q5_0 = tl.constexpr(6)
Q5_1 = tl.constexpr(7)
Q8_0 = tl.constexpr(8)
Q2_K = tl.constexpr(10)
Q3_K = tl.constexpr(11)
Q4_K = tl.constexpr(12)
Q5_K = tl.constexpr(13)
Q6_K = tl.constexpr(14)

NUMBERS_A_PROGRAM = 2048
WARPS = 2


def widen_ggml(data: Tensor, kind: int, dtype: torch.dtype) -> Tensor:
    """Quantised rows as numbers.

    data: uint8 (R, bytes of a row), on a GPU. kind: ggml's type number, a key of GGML_TYPES.
    dtype: bfloat16, float16 or float32. Returns (R, C). Raises KeyError for another kind.
    """
    if torch.compiler.is_compiling():
        return _operator(data, kind, dtype)
    # eagerly the operator would cost its dispatch as well
    return _launch(data, kind, dtype, _widen)


@triton_op("pulid_generate::widen_ggml", mutates_args=())
def _operator(data: Tensor, kind: int, dtype: torch.dtype) -> Tensor:
    return _launch(data, kind, dtype, wrap_triton(_widen))


def _launch(data: Tensor, kind: int, dtype: torch.dtype, kernel) -> Tensor:
    layout = GGML_TYPES[kind]
    data = data.contiguous()
    rows, blocks_a_row = data.shape[0], data.shape[1] // layout.size
    out = torch.empty(rows, blocks_a_row * layout.numbers, dtype=dtype, device=data.device)
    blocks = rows * blocks_a_row
    if blocks == 0:
        return out
    at_once = NUMBERS_A_PROGRAM // layout.numbers
    kernel[(triton.cdiv(blocks, at_once),)](
        data,
        out,
        blocks,
        KIND=kind,
        GROUPS=layout.groups,
        IN_GROUP=layout.in_group,
        SIZE=layout.size,
        BLOCKS=at_once,
        num_warps=WARPS,
    )
    return out


@triton.jit
def _widen(
    data,
    out,
    blocks,
    KIND: tl.constexpr,
    GROUPS: tl.constexpr,
    IN_GROUP: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """`blocks` blocks of `data`, BLOCKS of them a program."""
    block = (tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)).to(tl.int64)[:, None, None]
    group = tl.arange(0, GROUPS)[None, :, None]
    place = group * IN_GROUP + tl.arange(0, IN_GROUP)[None, None, :]
    # blocks past the end read the last one, and store nothing
    start = data + tl.minimum(block, blocks - 1) * SIZE
    numbers = numbers_of(start, group, place, KIND).to(out.dtype.element_ty)
    tl.store(out + block * (GROUPS * IN_GROUP) + place, numbers, mask=block < blocks)


@triton.jit
def numbers_of(start, group, place, KIND: tl.constexpr):
    """Numbers of blocks, float32 (.., groups, in a group).

    start: pointers to the first bytes (.., 1, 1). group: its number (.., groups, 1). place: of a
    number within its block (.., groups, in a group). Scales are read for a group, not for a number.
    """
    if KIND == Q8_0:
        numbers = _signed(start + 2 + place).to(tl.float32) * _half(start)
    elif KIND == Q4_0:
        numbers = (_nibble(start + 2, place) - 8).to(tl.float32) * _half(start)
    elif KIND == Q4_1:
        numbers = _nibble(start + 4, place).to(tl.float32) * _half(start) + _half(start + 2)
    elif KIND == Q5_0:
        quants = _nibble(start + 6, place) | _fifth_bit(start + 2, place) << 4
        numbers = (quants - 16).to(tl.float32) * _half(start)
    elif KIND == Q5_1:
        quants = _nibble(start + 8, place) | _fifth_bit(start + 4, place) << 4
        numbers = quants.to(tl.float32) * _half(start) + _half(start + 2)
    elif KIND == Q2_K:
        numbers = _q2_k(start, group, place)
    elif KIND == Q3_K:
        numbers = _q3_k(start, group, place)
    elif KIND == Q4_K:
        numbers = _scaled(_nibble_of_64(start + 16, place), start, group)
    elif KIND == Q5_K:
        fifth = _byte(start + 16 + place % 32) >> group & 1
        numbers = _scaled(_nibble_of_64(start + 48, place) | fifth << 4, start, group)
    else:
        tl.static_assert(KIND == Q6_K)
        numbers = _q6_k(start, group, place)
    return numbers


@triton.jit
def _q2_k(start, group, place):
    """16 bytes of scale (low nibble) and minimum (high), 64 of quants, d, dmin."""
    both = _byte(start + group)
    scales = (both & 15).to(tl.float32) * _half(start + 80)
    minima = (both >> 4).to(tl.float32) * _half(start + 82)
    return _pair(start + 16, place).to(tl.float32) * scales - minima


@triton.jit
def _q3_k(start, group, place):
    """32 bytes of third bits, 64 of quants, 12 of scales, d. A third bit not set takes 4."""
    third = _byte(start + place % 32) >> group // 2 & 1
    quants = _pair(start + 32, place) + 4 * third - 4
    # low nibbles of scales 0..7 in bytes 0..7, of 8..15 above them; upper two bits in bytes 8..11
    low = _byte(start + 96 + group % 8) >> group // 8 * 4 & 15
    high = _byte(start + 104 + group % 4) >> group // 4 * 2 & 3
    scales = ((low | high << 4) - 32).to(tl.float32) * _half(start + 108)
    return quants.to(tl.float32) * scales


@triton.jit
def _q6_k(start, group, place):
    """128 bytes of low nibbles, 64 of high pairs, 16 signed scales, d."""
    nibbles = _byte(start + place // 128 * 64 + place % 64) >> group // 4 % 2 * 4 & 15
    quants = (nibbles | _pair(start + 128, place) << 4) - 32
    scales = _signed(start + 192 + group).to(tl.float32) * _half(start + 208)
    return quants.to(tl.float32) * scales


@triton.jit
def _scaled(quants, start, group):
    """Q4_K and Q5_K: d, dmin, eight scales and eight minima of six bits, as get_scale_min_k4."""
    # 12 bytes: a, b hold scales and minima 0..3; c the low nibbles of 4..7, their rest is atop a, b
    a = _byte(start + 4 + group % 4)
    b = _byte(start + 8 + group % 4)
    c = _byte(start + 12 + group % 4)
    first = group < 4
    scales = tl.where(first, a & 63, c & 15 | a >> 6 << 4).to(tl.float32) * _half(start)
    minima = tl.where(first, b & 63, c >> 4 | b >> 6 << 4).to(tl.float32) * _half(start + 2)
    return quants.to(tl.float32) * scales - minima


@triton.jit
def _nibble(start, place):
    """Numbers 0..15 are the low nibbles of 16 bytes, 16..31 the high ones."""
    return _byte(start + place % 16) >> place // 16 * 4 & 15


@triton.jit
def _fifth_bit(start, place):
    """One bit of four bytes for each of 32 numbers."""
    return _byte(start + place // 8) >> place % 8 & 1


@triton.jit
def _nibble_of_64(start, place):
    """Of each 64 numbers, 32 are the low nibbles of 32 bytes, then 32 the high ones."""
    return _byte(start + place // 64 * 32 + place % 32) >> place // 32 % 2 * 4 & 15


@triton.jit
def _pair(start, place):
    """Of each 128 numbers, four times 32 share the pairs of bits of 32 bytes."""
    return _byte(start + place // 128 * 32 + place % 32) >> place // 32 % 4 * 2 & 3


@triton.jit
def _byte(pointer):
    return tl.load(pointer).to(tl.int32)


@triton.jit
def _signed(pointer):
    return tl.load(pointer.to(tl.pointer_type(tl.int8))).to(tl.int32)


@triton.jit
def _half(pointer):
    """The float16 at a byte, as float32. Blocks have even sizes, so that it is aligned."""
    return tl.load(pointer.to(tl.pointer_type(tl.float16))).to(tl.float32)
