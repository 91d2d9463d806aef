"""EasyCache against sd-cli's rule, written down once more, number by number."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from pulid_generate.caching.easycache import EasyCache, time_at
from pulid_generate.caching.evaluation import Evaluation
from pulid_generate.request.step_cache import StepCache
from pulid_generate.sampling.schedules import make_schedule

STEPS = 28


@dataclass
class ByHand:
    """src/runtime/easycache.hpp: its fields, one branch after the other."""

    threshold: float
    first: float
    last: float
    skips: list[int] = field(default_factory=list)
    diff: dict = field(default_factory=dict)
    x: np.ndarray | None = None
    y: np.ndarray | None = None
    norm = rate = acc = 0.0

    def step(self, step, t, x, model):
        """The velocities of both branches at x."""
        active = t <= self.first and t > self.last
        skip, change, out = False, None, {}
        for branch in ("positive", "negative"):
            if active and skip and branch in self.diff:
                out[branch] = x + self.diff[branch]
                continue
            if active and branch == "positive" and self.x is not None:
                change = np.abs(x - self.x).mean()
                if self.rate > 0 and self.norm > 0 and change > 0:
                    self.acc += self.rate * change / self.norm
                    if self.acc < self.threshold:
                        skip = True
                        self.skips.append(step)
                        out[branch] = x + self.diff[branch]
                        continue
                    self.acc = 0.0
            y = model(x, t, branch)
            out[branch] = y
            if not active:
                continue
            self.diff[branch] = y - x
            if branch == "positive":
                turned = np.abs(y - self.y).mean() if self.y is not None else 0.0
                self.x, self.y, self.norm, self.acc = x.copy(), y.copy(), np.abs(y).mean(), 0.0
                if change and turned:
                    self.rate = turned / change
        return out


def model(x, t, branch):
    """A velocity that bends."""
    bend = np.sin(3 * x + 5 * t) * (0.4 if branch == "positive" else 0.3)
    return x - bend - np.cos(7 * t)


@pytest.mark.parametrize("option", ["", "threshold=0.05", "threshold=0.6,start=0.3,end=0.8"])
@pytest.mark.parametrize("dev", [True, False])
def test_every_step_is_skipped_or_computed_as_in_sd_cli(option, dev):
    asked = StepCache.parse("easycache", option)
    cache = EasyCache(asked, dev)
    by_hand = ByHand(asked.threshold, time_at(asked.start, dev), time_at(asked.end, dev))
    times = make_schedule("flux", STEPS, 0.8)
    x = np.random.default_rng(0).normal(size=(1, 12, 64))
    ours, skips = x.copy(), []
    for step, t in enumerate(times[:-1]):
        wanted = by_hand.step(step, t, x, model)
        got = {}
        for branch in ("positive", "negative"):
            before = cache.reused
            evaluation = Evaluation(torch.from_numpy(ours), t, step, branch)
            computed = torch.from_numpy(model(ours, t, branch))
            got[branch] = cache.evaluate(evaluation, lambda made=computed: made).numpy()
            if branch == "positive" and cache.reused > before:
                skips.append(step)
        for name in wanted:
            assert np.allclose(got[name], wanted[name], atol=1e-9)
        move = times[step + 1] - t
        x = x + move * (wanted["negative"] + 2 * (wanted["positive"] - wanted["negative"]))
        ours = ours + move * (got["negative"] + 2 * (got["positive"] - got["negative"]))
    assert skips == by_hand.skips
    assert 2 <= len(skips) < STEPS - 4
    assert cache.reused == 2 * len(skips)


def test_where_reuse_begins_and_ends():
    dev, schnell = ([round(time_at(at, kind), 3) for at in (0.15, 0.95)] for kind in (True, False))
    assert dev == [0.947, 0.145]
    assert schnell == [0.939, 0.127]
    assert (time_at(0, True), time_at(1, True)) == (math.inf, 0)


def steady(added=lambda step: None, branches=("positive",), twice=False, steps=10):
    """Which evaluations of a hardly changing model are computed."""
    cache = EasyCache(StepCache.parse("easycache", "threshold=1000,start=0,end=1"), True)
    computed = []
    for step in range(steps):
        for branch in branches:
            for part in range(1 + twice):
                latent = torch.full((1, 2, 64), 1.0 + step)

                def compute(latent=latent, at=(step, branch, part)):
                    computed.append(at)
                    return latent * 1.5

                cache.evaluate(Evaluation(latent, 0.5, step, branch, added(step)), compute)
    return computed


def test_another_identity_is_computed_anew():
    assert [step for step, _, _ in steady()] == [0, 1]
    assert [step for step, _, _ in steady(lambda step: step >= 6)] == [0, 1, 6, 7]


def test_the_second_evaluation_of_a_step_is_always_computed():
    assert [at for at in steady(twice=True) if at[2] == 0] == [
        (0, "positive", 0),
        (1, "positive", 0),
    ]
    assert len([at for at in steady(twice=True) if at[2] == 1]) == 10


def test_a_branch_that_begins_later_is_computed_first():
    """True CFG from a later step: there is nothing of it yet, whatever the first branch says."""
    cache = EasyCache(StepCache.parse("easycache", "threshold=1000,start=0,end=1"), True)
    computed = []
    for step in range(6):
        for branch in ("positive", "negative") if step >= 3 else ("positive",):
            latent = torch.full((1, 2, 64), 1.0 + step)

            def compute(latent=latent, at=(step, branch)):
                computed.append(at)
                return latent * 1.5

            cache.evaluate(Evaluation(latent, 0.5, step, branch), compute)
    assert computed == [(0, "positive"), (1, "positive"), (3, "negative")]
