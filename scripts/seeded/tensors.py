"""Seeded tensors: the same numbers on every machine, from integer arithmetic alone. Knows nothing
of layouts or files.

Element i is splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators",
OOPSLA 2014; constants of Vigna's splitmix64.c) of the counter crc32(name) << 32 | i. The golden
tensors in tests/golden and the pictures that sd-cli drew were made with this arithmetic: a change
of one bit here makes them useless.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch

BIAS_SCALE = 0.02
NORM_SPREAD = 0.1


def seeded(
    name: str, shape: tuple[int, ...], scale: float = 1.0, offset: float = 0.0
) -> np.ndarray:
    """Uniform noise of standard deviation `scale` around `offset`, a pure function of (name,
    shape). float32.
    """
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        z = np.arange(count, dtype=np.uint64) + (
            np.uint64(zlib.crc32(name.encode())) << np.uint64(32)
        )
        z += np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    unit = (z >> np.uint64(40)).astype(np.float32) / np.float32(2**23) - np.float32(1)
    return (unit * np.float32(3**0.5 * scale) + np.float32(offset)).reshape(shape)


def seeded_weight(
    name: str, shape: tuple[int, ...], kind: str | float, dtype: torch.dtype
) -> torch.Tensor:
    """One parameter of a layout. kind: "bias" (near 0), "scale" (near 1), or the gain of a matrix,
    over the root of its fan-in.
    """
    noise = torch.from_numpy(seeded(name, shape))
    if kind == "bias":
        weight = noise * BIAS_SCALE
    elif kind == "scale":
        weight = 1 + NORM_SPREAD * noise
    else:
        weight = noise * (float(kind) / (int(np.prod(shape[1:])) or 1) ** 0.5)
    return weight.to(dtype)


def seeded_weights(
    layout: dict[str, tuple[tuple[int, ...], str | float]], seed: int, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Every parameter of a layout (see layouts.py). The seed is part of each name, so files of two
    seeds share nothing.
    """
    return {
        name: seeded_weight(f"{seed}/{name}", shape, kind, dtype)
        for name, (shape, kind) in layout.items()
    }


def seeded_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The parameters of a module as the golden files name them: matrices at 1 / sqrt(fan-in), norm
    scales near 1, biases near 0.

    Unlike in a layout, the kind is read from the name: that of the makers of the golden files, kept
    for their sake.
    """
    out = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            is_bias = name.endswith(("b", "bias")) or "_bias" in name
            out[name] = (
                seeded(name, shape, BIAS_SCALE, 0.0)
                if is_bias
                else seeded(name, shape, NORM_SPREAD, 1.0)
            )
        else:
            out[name] = seeded(name, shape, float(np.prod(shape[1:])) ** -0.5)
    return out
