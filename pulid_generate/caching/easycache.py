"""EasyCache as sd-cli computes it: the model's output is its input plus what it last added, as long
as little is expected to have changed.

Only the first branch of a step decides, the others follow it. Knows no model.

Source: leejet/stable-diffusion.cpp 97d29908, src/runtime/easycache.hpp (`EasyCacheState`) and
src/runtime/denoiser.hpp (`t_to_sigma` of Flux); after H-EmbodVis/EasyCache, arXiv 2507.02860.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from pulid_generate.caching.evaluation import Compute, Evaluation
from pulid_generate.request.step_cache import StepCache

# sd-cli's shifts of Flux, whatever the schedule
MU = {True: 1.15, False: 1.0}
TIMESTEPS = 1000


@dataclass
class _Memory:
    """What is known of the steps that were computed."""

    # Branch -> output - input of its last computed step
    added: dict[str, Tensor] = field(default_factory=dict)
    # Of the deciding branch's last computed step
    latent: Tensor | None = None
    velocity: Tensor | None = None
    # mean |velocity|, and mean change of velocity per mean change of latent
    size: float = 0.0
    rate: float = 0.0
    # Expected change since the last computed step, relative to `size`
    change: float = 0.0


class EasyCache:
    """The rule, for one picture."""

    def __init__(self, asked: StepCache, dev: bool):
        """dev: whether Flux has a guidance input, which says by which shift sd-cli counts."""
        assert asked.threshold is not None
        self.threshold = asked.threshold
        self.first = time_at(asked.start, dev)
        self.last = time_at(asked.end, dev)
        self.asked = self.reused = 0
        self._memory = _Memory()
        self._people: dict[str, object] = {}
        # The branch that decides: the first one of an active step
        self._anchor: str | None = None
        self._step = -1
        self._branches: set[str] = set()
        self._skips = False

    def evaluate(self, evaluation: Evaluation, compute: Compute) -> Tensor:
        """As of `Cache`."""
        self.asked += 1
        branch, latent = evaluation.branch, evaluation.latent
        if evaluation.step != self._step:
            self._step, self._skips = evaluation.step, False
            self._branches = set()
        second = branch in self._branches
        self._branches.add(branch)
        if self._people.setdefault(branch, evaluation.added) != evaluation.added:
            self._people[branch] = evaluation.added
            self._memory, self._skips = _Memory(), False
        if second or not self.last < evaluation.t <= self.first:
            return compute()
        if self._anchor is None:
            self._anchor = branch
        moved = None
        if branch == self._anchor and not self._skips:
            moved = self._moved(latent)
            self._skips = moved is not None and self._decide(moved)
        if self._skips and branch in self._memory.added:
            self.reused += 1
            return latent + self._memory.added[branch]
        velocity = compute()
        self._memory.added[branch] = velocity - latent
        if branch == self._anchor:
            self._remember(latent, velocity, moved)
        return velocity

    def _moved(self, latent: Tensor) -> float | None:
        """Mean change of the latent since the last computed step; None before there was one."""
        if self._memory.latent is None:
            return None
        return mean_abs(latent - self._memory.latent)

    def _decide(self, moved: float) -> bool:
        memory = self._memory
        if not (memory.rate and memory.size and moved):
            return False
        memory.change += memory.rate * moved / memory.size
        return memory.change < self.threshold

    def _remember(self, latent: Tensor, velocity: Tensor, moved: float | None) -> None:
        memory = self._memory
        if moved and memory.velocity is not None:
            turned = mean_abs(velocity - memory.velocity)
            rate = turned / moved
            if turned and math.isfinite(rate):
                memory.rate = rate
        memory.latent, memory.velocity = latent.clone(), velocity.clone()
        memory.size, memory.change = mean_abs(velocity), 0.0


def time_at(share: float, dev: bool) -> float:
    """The noise level, 1 to 0, at a share of the way from noise to picture, as sd-cli counts it."""
    if share <= 0:
        return math.inf
    if share >= 1:
        return 0.0
    t = ((1 - share) * (TIMESTEPS - 1) + 1) / TIMESTEPS
    shift = math.exp(MU[dev])
    return shift / (shift + 1 / t - 1)


def mean_abs(x: Tensor) -> float:
    """Of all numbers, in float64: a threshold should not depend on the order of a sum."""
    return float(x.cpu().double().abs().mean())
