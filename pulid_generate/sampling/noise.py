"""Seeded standard normal latents. Knows nothing of schedules or samplers.

Source: leejet/stable-diffusion.cpp 97d29908 rng_philox.hpp (the generator of `--rng cuda`),
src/pipeline/image.cpp (which draw is used for what: one for the start of a picture, the following
ones for the samplers that add noise).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pulid_generate.files.layouts import LATENT_CHANNELS, LATENT_SCALE
from pulid_generate.sampling.names import Rng


class NoiseStream:
    """The draws of one seed, one after the other, for a picture of width x height pixels.

    rng: "cpu" is torch.randn on the CPU; "cuda" is sd-cli's Philox, which equals torch.randn on a
    GPU for small pictures.
    """

    def __init__(self, seed: int, width: int, height: int, rng: Rng, after: int = 0):
        """after: draws of that size that came before."""
        self.shape = (1, LATENT_CHANNELS, height // LATENT_SCALE, width // LATENT_SCALE)
        self._seed, self._draws = seed, 0
        self._generator = torch.Generator().manual_seed(seed) if rng == "cpu" else None
        for _ in range(after):
            self.draw()

    def draw(self) -> Tensor:
        """The next standard normal latents (1, 16, height/8, width/8), float32, on the CPU: the
        same on every device.
        """
        self._draws += 1
        if self._generator is not None:
            return torch.randn(self.shape, generator=self._generator, dtype=torch.float32)
        numbers = philox_randn(self._seed, math.prod(self.shape), offset=self._draws - 1)
        return torch.from_numpy(numbers.reshape(self.shape))


def make_noise(seed: int, width: int, height: int, rng: Rng) -> Tensor:
    """The first draw of a NoiseStream: the noise that a picture starts from."""
    return NoiseStream(seed, width, height, rng).draw()


def make_noises(
    seed: int, sizes: Sequence[tuple[int, int]], rng: Rng, after: int = 0
) -> list[Tensor]:
    """Draws for pictures of different sizes (width, height), one after the other.

    after: draws of the same generator that came before, of the first size.
    """
    noises = []
    stream = NoiseStream(seed, *sizes[0], rng, after)
    for width, height in sizes:
        stream.shape = NoiseStream(seed, width, height, rng).shape
        noises.append(stream.draw())
    return noises


def add_noise(image: Tensor | None, noise: Tensor, t: float) -> Tensor:
    """The latent at time t: image * (1 - t) + noise * t. Shapes equal; without an image only the
    noise, scaled.
    """
    if image is None:
        return noise * t
    return image * (1 - t) + noise * t


def philox_randn(seed: int, count: int, offset: int = 0) -> np.ndarray:
    """`count` standard normal float32 numbers from Philox-4x32-10 and Box-Muller, one per counter.

    offset: how many times the same generator was called before. Source: Salmon et al. 2011; the use
    of the four words is sd-cli's.
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
    # 2^-32, in the single precision that the CUDA original uses
    unit = np.float32(2.3283064e-10)
    turn = np.float32(unit * np.float32(2 * math.pi))
    radius = np.sqrt(
        np.float32(-2) * np.log(words[0].astype(np.float32) * unit + unit / np.float32(2))
    )
    return radius * np.sin(words[1].astype(np.float32) * turn + turn / np.float32(2))
