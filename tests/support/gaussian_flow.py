"""A flow whose solution is known, for samplers and guidance."""

from __future__ import annotations

import torch


class GaussianFlow:
    """Data from N(mean, spread^2), each number with its own: the velocity and its solution are
    known (float64).

    E[x0 | x_t] = mean + (1-t) spread^2 / ((1-t)^2 spread^2 + t^2) * (x_t - (1-t) mean), and from
    x_1 the flow ends at mean + spread * x_1.
    """

    def __init__(self, shape=(1, 4, 64)):
        random = torch.Generator().manual_seed(3)
        self.mean = torch.randn(shape, generator=random, dtype=torch.float64)
        self.spread = 0.3 + torch.rand(shape, generator=random, dtype=torch.float64)
        self.start = torch.randn(shape, generator=random, dtype=torch.float64)
        self.end = self.mean + self.spread * self.start
        self.asked = []

    def __call__(self, latent, t, *, step, branch):
        assert 0 < t <= 1
        self.asked.append((step, branch))
        scale = (1 - t) * self.spread**2 / ((1 - t) ** 2 * self.spread**2 + t**2)
        return (latent - self.mean - scale * (latent - (1 - t) * self.mean)) / t

    def error(self, latent) -> float:
        return float((latent - self.end).norm() / self.end.norm())


def seeded_noise(like, seed=0):
    random = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(like.shape, generator=random, dtype=like.dtype)
