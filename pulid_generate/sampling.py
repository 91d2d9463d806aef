"""Noise, packing, schedule and the denoise loop: pure functions of tensors.

Knows nothing of files, flags, pictures or models: the model is a function that predicts a velocity.
Shapes: latents (1, 16, H/8, W/8) of the autoencoder; packed (1, L, 64) with L = (H/16)(W/16), as Flux reads them.

Sources: black-forest-labs/flux src/flux/sampling.py (schedule, packing order); ToTheBeginning/PuLID 1aa2fc7 flux/sampling.py
(start step of the identity, true CFG); leejet/stable-diffusion.cpp 97d29908 rng_philox.hpp (the generator of `--rng cuda`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

LATENT_CHANNELS = 16
LATENT_SCALE = 8  # pixels per latent cell
PATCH = 2  # latent cells per token, along each axis
# the BFL resolution shift: mu is linear in the number of image tokens through these two points
SHIFT_TOKENS, SHIFT_MU = (256, 4096), (0.5, 1.15)

Rng = Literal["cpu", "cuda"]


class Predict(Protocol):
    def __call__(self, latent: Tensor, t: float, *, negative: bool, with_identity: bool) -> Tensor: ...


def token_count(width: int, height: int) -> int:
    """Image tokens of a picture of width x height pixels."""
    return (width // (LATENT_SCALE * PATCH)) * (height // (LATENT_SCALE * PATCH))


def make_noise(seed: int, width: int, height: int, rng: Rng) -> Tensor:
    """Standard normal latents (1, 16, height/8, width/8), float32, on the CPU: the same on every device.

    rng: "cpu" is torch.randn on the CPU; "cuda" is sd-cli's Philox, which equals torch.randn on a GPU for small pictures.
    """
    shape = (1, LATENT_CHANNELS, height // LATENT_SCALE, width // LATENT_SCALE)
    if rng == "cpu":
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return torch.from_numpy(philox_randn(seed, math.prod(shape)).reshape(shape))


def philox_randn(seed: int, count: int, offset: int = 0) -> np.ndarray:
    """`count` standard normal float32 numbers from Philox-4x32-10 and Box-Muller, one per counter.

    offset: how many times the same generator was called before. Source: Salmon et al. 2011; the use of the four words is sd-cli's.
    """
    words = [
        np.full(count, offset, np.uint64),
        np.zeros(count, np.uint64),
        np.arange(count, dtype=np.uint64),
        np.zeros(count, np.uint64),
    ]
    low = np.uint64(0xFFFFFFFF)
    keys = [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF]
    for _ in range(10):
        first, second = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        words = [
            (second >> np.uint64(32)) ^ words[1] ^ np.uint64(keys[0]),
            second & low,
            (first >> np.uint64(32)) ^ words[3] ^ np.uint64(keys[1]),
            first & low,
        ]
        keys = [(keys[0] + 0x9E3779B9) & 0xFFFFFFFF, (keys[1] + 0xBB67AE85) & 0xFFFFFFFF]
    unit = np.float32(2.3283064e-10)  # 2^-32, in the single precision that the CUDA original uses
    turn = np.float32(unit * np.float32(2 * math.pi))
    radius = np.sqrt(np.float32(-2) * np.log(words[0].astype(np.float32) * unit + unit / np.float32(2)))
    return radius * np.sin(words[1].astype(np.float32) * turn + turn / np.float32(2))


def pack(latents: Tensor) -> Tensor:
    """(B, 16, h, w) -> (B, (h/2)(w/2), 64), channels slowest within a token: "b c (h ph) (w pw) -> b (h w) (c ph pw)"."""
    b, c, h, w = latents.shape
    return latents.reshape(b, c, h // PATCH, PATCH, w // PATCH, PATCH).permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * PATCH * PATCH)


def unpack(packed: Tensor, width: int, height: int) -> Tensor:
    """The inverse of `pack` for a picture of width x height pixels: (B, L, 64) -> (B, 16, height/8, width/8)."""
    rows, columns = height // (LATENT_SCALE * PATCH), width // (LATENT_SCALE * PATCH)
    x = packed.reshape(packed.shape[0], rows, columns, -1, PATCH, PATCH)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(packed.shape[0], -1, rows * PATCH, columns * PATCH)


def position_ids(width: int, height: int) -> Tensor:
    """Rotary positions of the image tokens, (L, 3) float32: (0, row, column)."""
    rows, columns = height // (LATENT_SCALE * PATCH), width // (LATENT_SCALE * PATCH)
    grid = torch.zeros(rows, columns, 3)
    grid[..., 1] = torch.arange(rows)[:, None]
    grid[..., 2] = torch.arange(columns)[None, :]
    return grid.reshape(-1, 3)


def resolution_mu(tokens: int) -> float:
    """BFL's shift for a picture of so many image tokens: 0.5 at 256, 1.15 at 4,096, linear between and beyond."""
    slope = (SHIFT_MU[1] - SHIFT_MU[0]) / (SHIFT_TOKENS[1] - SHIFT_TOKENS[0])
    return SHIFT_MU[0] + slope * (tokens - SHIFT_TOKENS[0])


def make_schedule(steps: int, mu: float | None) -> list[float]:
    """steps + 1 times from 1 to 0: linear, or with `mu` shifted by t = e^mu / (e^mu + 1/t - 1). float32 arithmetic, as BFL's."""
    times = torch.linspace(1, 0, steps + 1)
    if mu is not None:
        times = math.exp(mu) / (math.exp(mu) + (1 / times - 1))
    return times.tolist()


def denoise(
    predict: Predict,
    latent: Tensor,
    times: Sequence[float],
    *,
    id_start_step: int = 0,
    cfg_scale: float = 1.0,
    cfg_start_step: int = 0,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Euler steps along `times` (from noise at times[0] to times[-1]).

    predict: velocity (B, L, 64) of `latent` at time t; `negative` asks for the unconditional branch of true CFG, `with_identity` is
        true from step `id_start_step` on, in both branches.
    cfg_scale: 1 never evaluates the negative branch; else v = v_neg + cfg_scale * (v - v_neg) from step `cfg_start_step` on.
    """
    total = len(times) - 1
    for step, (t, t_next) in enumerate(pairwise(times)):
        with_identity = step >= id_start_step
        velocity = predict(latent, t, negative=False, with_identity=with_identity)
        if cfg_scale != 1.0 and step >= cfg_start_step:
            negative = predict(latent, t, negative=True, with_identity=with_identity)
            velocity = negative + cfg_scale * (velocity - negative)
        latent = latent + (t_next - t) * velocity
        on_step(step + 1, total)
    return latent
