"""Pack numbers as ggml's Q4_K, which gguf-py reads but does not write. For tests and benchmarks:
plain rounding between minimum and maximum.

Layout: ggml/src/ggml-common.h, block_q4_K; the six-bit scales as get_scale_min_k4 of ggml-quants.c
reads them.
"""

from __future__ import annotations

import numpy as np

BLOCK, SUB_BLOCKS, SIZE = 256, 8, 144
LEVELS, SCALES = 15, 63  # largest quant, largest scale
# dmin / d at which random blocks have mean 0: scales and minima are equally distributed
MEAN_QUANT = 7.5
# of scale * quant - MEAN_QUANT * minimum, for independent uniform integers up to 63, 15 and 63
RANDOM_DEVIATION = (
    (SCALES * 127 / 6) * (LEVELS * 31 / 6) - (31.5 * 7.5) ** 2 + 7.5**2 * (64**2 - 1) / 12
) ** 0.5


def quantize_q4_k(numbers: np.ndarray) -> np.ndarray:
    """float32 (.., C), C a multiple of 256 -> uint8 (.., C / 256 * 144)."""
    values = numbers.astype(np.float32).reshape(-1, SUB_BLOCKS, BLOCK // SUB_BLOCKS)
    floor = np.minimum(values.min(-1), 0)
    scale, d = _six_bits((values.max(-1) - floor) / LEVELS)
    minimum, dmin = _six_bits(-floor)
    step, offset = d.astype(np.float32) * scale, dmin.astype(np.float32) * minimum
    with np.errstate(invalid="ignore", divide="ignore"):
        quants = np.nan_to_num((values + offset[..., None]) / step[..., None], posinf=0)
    quants = np.clip(np.rint(quants), 0, LEVELS).astype(np.uint8)
    packed = [d.view(np.uint8), dmin.view(np.uint8), _twelve_bytes(scale, minimum)]
    packed.append((quants[:, 0::2] | quants[:, 1::2] << 4).reshape(len(values), -1))
    return np.concatenate(packed, 1).reshape(*numbers.shape[:-1], -1)


def random_q4_k(
    rows: int, columns: int, deviation: float, generator: np.random.Generator
) -> np.ndarray:
    """uint8 (rows, columns / 256 * 144): random scales, minima and quants whose numbers have mean 0
    and this standard deviation.
    """
    blocks = (
        np.frombuffer(generator.bytes(rows * columns // BLOCK * SIZE), np.uint8)
        .reshape(-1, SIZE)
        .copy()
    )
    blocks[:, :4] = np.array(
        [deviation / RANDOM_DEVIATION, MEAN_QUANT * deviation / RANDOM_DEVIATION], np.float16
    ).view(np.uint8)
    return blocks.reshape(rows, -1)


def _six_bits(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (n, 8), not negative -> uint8 (n, 8) up to 63, and the float16 (n, 1) that they are
    multiples of.
    """
    unit = (numbers.max(-1, keepdims=True) / SCALES).astype(np.float16)
    with np.errstate(invalid="ignore", divide="ignore"):
        integers = np.nan_to_num(numbers / unit.astype(np.float32), posinf=0)
    return np.clip(np.rint(integers), 0, SCALES).astype(np.uint8), unit


def _twelve_bytes(scale: np.ndarray, minimum: np.ndarray) -> np.ndarray:
    first = scale[:, :4] | scale[:, 4:] >> 4 << 6
    second = minimum[:, :4] | minimum[:, 4:] >> 4 << 6
    return np.concatenate([first, second, scale[:, 4:] & 15 | minimum[:, 4:] << 4], 1)
