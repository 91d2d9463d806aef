"""One evaluation of the model, as a cache sees it, and what a cache is."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What the model is asked."""

    # (B, L, 64) float32
    latent: Tensor
    # 1 for noise to 0 for a picture
    t: float
    # From 0. A method of two evaluations asks twice for one step; the second is always computed.
    step: int
    # Of guidance; each has a memory of its own
    branch: str
    # All that is added to the model's own computation: people, weights, regions, controls. What was
    # computed with another one is not reused
    added: Hashable = None


# Runs the model: -> velocity, float32, of the latent's shape
Compute = Callable[[], Tensor]


class Cache(Protocol):
    """What a denoise loop asks instead of the model."""

    # Evaluations that were asked for, and how many of them reused something
    asked: int
    reused: int

    def evaluate(self, evaluation: Evaluation, compute: Compute) -> Tensor:
        """The velocity: computed, or made of what was."""
        ...
