"""Blocks of ggml's quantised types -> float32 numbers, written into a buffer that the caller owns.

Knows bytes and numbers; nothing of weights, layers or files. Layouts: ggml/src/ggml-common.h
(block_q4_0 .. block_q6_K) and the dequantize_row functions of ggml-quants.c, which gguf-py repeats
and the tests compare with.

A denoise step spends its time here as well as in matrix products, so the passes are few and wide:
bits are taken apart in words of eight packed bytes, then one pass turns bytes into float32 and one
or two scale them in place. Types that are missing from FILL are computed by diffusers' port or by
gguf-py, correctly and slowly.

Shapes: n blocks of `size` bytes holding `block` numbers each. Machines are little-endian, as ggml's
files are.
"""

from __future__ import annotations

from collections.abc import Callable

import gguf
import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor

# a slice's float32 numbers (8 MB) stay in a shared cache; smaller slices lose more to the cost of
# starting operations
CPU_NUMBERS_AT_ONCE, OTHER_NUMBERS_AT_ONCE = 1 << 21, 1 << 25
# numbers in a block of the K types
K_BLOCK = 256


def block_layout(kind: Kind) -> tuple[int, int]:
    """(numbers, bytes) of one block of a type."""
    return gguf.GGML_QUANT_SIZES[kind]


def bytewise(value: int) -> int:
    """The int64 that holds `value` in each of its eight bytes. value: 0 to 127."""
    return value * 0x0101010101010101


def rows_at_once(columns: int, device: torch.device) -> int:
    """How many rows of a weight to dequantise in one go."""
    if device.type == "cpu":
        # the threads' slices share the cache
        return max(1, CPU_NUMBERS_AT_ONCE // torch.get_num_threads() // columns)
    return max(1, OTHER_NUMBERS_AT_ONCE // columns)


def fill(data: Tensor, kind: Kind, out: Tensor) -> None:
    """Dequantise rows.

    data: uint8 (R, bytes of a row). out: float32 (R, C), contiguous, on the same device; every
    number is overwritten.
    """
    block, size = block_layout(kind)
    blocks, numbers = data.reshape(-1, size), out.view(-1, block)
    if kind in FILL:
        FILL[kind](blocks, numbers)
    else:
        numbers.copy_(_slowly(blocks, kind))


def _slowly(blocks: Tensor, kind: Kind) -> Tensor:
    from diffusers.quantizers.gguf.utils import dequantize_functions

    block, size = block_layout(kind)
    if kind in dequantize_functions:
        return dequantize_functions[kind](blocks, block, size, torch.float32)
    return torch.from_numpy(gguf.dequantize(blocks.cpu().numpy(), kind)).to(blocks.device)


# ------------------------------------------------------------------------------------- legacy types


def _q8_0(blocks: Tensor, out: Tensor) -> None:
    out.copy_(blocks[:, 2:].view(torch.int8)).mul_(_half(blocks, 0))


def _q4_0(blocks: Tensor, out: Tensor) -> None:
    low, high = _nibbles(_words(blocks, 2, 16))
    out[:, :16] = _bytes(low).view(torch.int8).sub_(8)
    out[:, 16:] = _bytes(high).view(torch.int8).sub_(8)
    out.mul_(_half(blocks, 0))


def _q4_1(blocks: Tensor, out: Tensor) -> None:
    low, high = _nibbles(_words(blocks, 4, 16))
    out[:, :16] = _bytes(low)
    out[:, 16:] = _bytes(high)
    out.mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _q5_0(blocks: Tensor, out: Tensor) -> None:
    low, high = _with_fifth_bits(blocks, 2)
    out[:, :16] = _bytes(low).view(torch.int8).sub_(16)
    out[:, 16:] = _bytes(high).view(torch.int8).sub_(16)
    out.mul_(_half(blocks, 0))


def _q5_1(blocks: Tensor, out: Tensor) -> None:
    low, high = _with_fifth_bits(blocks, 4)
    out[:, :16] = _bytes(low)
    out[:, 16:] = _bytes(high)
    out.mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _with_fifth_bits(blocks: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Numbers 0..15 and 16..31 of Q5_0 and Q5_1 as words: 32 fifth bits from byte `start` on, then
    32 nibbles.
    """
    # every byte of fifth bits becomes eight bytes that are 0 or 16
    bits = torch.arange(256)[:, None] >> torch.arange(8) & 1
    spread = bits.to(torch.uint8).mul_(16).view(torch.int64)
    fifth = spread.to(blocks.device)[blocks[:, start : start + 4].int(), 0]
    low, high = _nibbles(_words(blocks, start + 4, 16))
    return low.bitwise_or_(fifth[:, :2]), high.bitwise_or_(fifth[:, 2:])


# ------------------------------------------------------------------------------------------ K types


def _q2_k(blocks: Tensor, out: Tensor) -> None:
    """16 bytes of scale (low nibble) and minimum (high), 64 of quants, d, dmin."""
    numbers = out.view(-1, 2, 4, 32)
    words = _words(blocks, 16, 64).view(-1, 2, 4)
    for part in range(4):
        numbers[:, :, part] = _bytes(words >> 2 * part & bytewise(3)).view(-1, 2, 32)
    scales, minima = (_bytes(half) for half in _nibbles(_words(blocks, 0, 16)))
    out.view(-1, 16, 16).mul_(_spread(scales, blocks, 80)).sub_(_spread(minima, blocks, 82))


def _q3_k(blocks: Tensor, out: Tensor) -> None:
    """32 bytes of third bits, 64 of quants, 12 of scales, d. A third bit that is *not* set takes 4
    away.
    """
    numbers = out.view(-1, 2, 4, 32)
    third = ~_words(blocks, 0, 32)
    words = _words(blocks, 32, 64).view(-1, 2, 4)
    for half in range(2):
        for part in range(4):
            taken = (third >> 4 * half + part & bytewise(1)) << 2
            quants = words[:, half] >> 2 * part & bytewise(3)
            numbers[:, half, part] = (
                _bytes(quants).view(torch.int8).sub_(_bytes(taken).view(torch.int8))
            )
    a, b, high = blocks[:, 96:108].contiguous().view(torch.int32).unbind(1)
    low = (a, b, a >> 4, b >> 4)
    scales = torch.stack(
        [low[i] & 0x0F0F0F0F | (high >> 2 * i & 0x03030303) << 4 for i in range(4)], 1
    )
    out.view(-1, 16, 16).mul_(_spread(_bytes(scales).view(torch.int8).sub_(32), blocks, 108))


def _q4_k(blocks: Tensor, out: Tensor) -> None:
    """d, dmin, 12 bytes of scales and minima, 128 of quants."""
    numbers = out.view(-1, 4, 2, 32)
    for half, words in enumerate(_nibbles(_words(blocks, 16, 128))):
        numbers[:, :, half] = _bytes(words).view(-1, 4, 32)
    _scale_k(blocks, out)


def _q5_k(blocks: Tensor, out: Tensor) -> None:
    """d, dmin, 12 bytes of scales and minima, 32 of fifth bits, 128 of quants."""
    numbers = out.view(-1, 4, 2, 32)
    fifth = _words(blocks, 16, 32)
    for half, words in enumerate(_nibbles(_words(blocks, 48, 128))):
        for part, quants in enumerate(words.view(-1, 4, 4).unbind(1)):
            numbers[:, part, half] = _bytes(quants | (fifth >> 2 * part + half & bytewise(1)) << 4)
    _scale_k(blocks, out)


def _q6_k(blocks: Tensor, out: Tensor) -> None:
    """128 bytes of low nibbles, 64 of high pairs, 16 signed scales, d."""
    numbers = out.view(-1, 2, 4, 32)
    low = _words(blocks, 0, 128).view(-1, 2, 2, 4)
    high = _words(blocks, 128, 64).view(-1, 2, 4)
    for part in range(4):
        nibbles = low[:, :, part % 2] >> 4 * (part // 2) & bytewise(15)
        quants = nibbles | (high >> 2 * part & bytewise(3)) << 4
        numbers[:, :, part] = _bytes(quants).view(torch.int8).sub_(32).view(-1, 2, 32)
    out.view(-1, 16, 16).mul_(_spread(blocks[:, 192:208].view(torch.int8), blocks, 208))


def _scale_k(blocks: Tensor, out: Tensor) -> None:
    """Q4_K and Q5_K: eight scales and eight minima of six bits in 12 bytes, as ggml's
    get_scale_min_k4.
    """
    a, b, c = blocks[:, 4:16].contiguous().view(torch.int32).unbind(1)
    scales = torch.stack([a & 0x3F3F3F3F, c & 0x0F0F0F0F | a >> 2 & 0x30303030], 1)
    minima = torch.stack([b & 0x3F3F3F3F, c >> 4 & 0x0F0F0F0F | b >> 2 & 0x30303030], 1)
    out.view(-1, 8, 32).mul_(_spread(_bytes(scales), blocks, 0)).sub_(
        _spread(_bytes(minima), blocks, 2)
    )


# -------------------------------------------------------------------------------------------- parts


def _half(blocks: Tensor, start: int) -> Tensor:
    """The float16 at byte `start` of each block, as float32 (n, 1)."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _spread(integers: Tensor, blocks: Tensor, start: int) -> Tensor:
    """Integers (n, g) times the float16 at byte `start`: float32 (n, g, 1)."""
    return (integers.float() * _half(blocks, start))[:, :, None]


def _words(blocks: Tensor, start: int, length: int) -> Tensor:
    """`length` bytes from `start` on of each block, copied, as int64 (n, length / 8)."""
    return blocks[:, start : start + length].contiguous().view(torch.int64)


def _bytes(words: Tensor) -> Tensor:
    return words.view(torch.uint8)


def _nibbles(words: Tensor) -> tuple[Tensor, Tensor]:
    """Low and high half of every byte; `words` is overwritten."""
    low = words & bytewise(15)
    return low, words.bitwise_right_shift_(4).bitwise_and_(bytewise(15))


FILL: dict[Kind, Callable[[Tensor, Tensor], None]] = {
    Kind.Q8_0: _q8_0,
    Kind.Q4_0: _q4_0,
    Kind.Q4_1: _q4_1,
    Kind.Q5_0: _q5_0,
    Kind.Q5_1: _q5_1,
    Kind.Q2_K: _q2_k,
    Kind.Q3_K: _q3_k,
    Kind.Q4_K: _q4_k,
    Kind.Q5_K: _q5_k,
    Kind.Q6_K: _q6_k,
}
