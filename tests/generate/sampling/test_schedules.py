"""Schedules: from 1 to 0, cut, and against the references."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from pulid_generate.errors import RequestError
from pulid_generate.sampling import names as sampling_names
from pulid_generate.sampling.schedules import cut_schedule, make_schedule, schedule_mu


@pytest.mark.parametrize("name", sampling_names.SCHEDULES)
@pytest.mark.parametrize("dev", [True, False])
def test_a_schedule_falls_from_1_to_0(name, dev):
    for width in (64, 1024):
        mu = schedule_mu(name, width=width, height=512, dev=dev)
        for steps in (1, 2, 3, 4, 20, 50):
            times = make_schedule(name, steps, mu)
            assert len(times) == steps + 1
            assert (times[0], times[-1]) == (1.0, 0.0)
            assert all(a > b for a, b in pairwise(times)), times


# by hand from sd.cpp's formulas: S(t) = e^m / (e^m + 1000/(t+1) - 1)
KNOWN = {
    ("discrete", 1.15, 4): [1, 0.8635, 0.61298, 0.00315, 0],  # S(999), S(666), S(333), S(0)
    ("discrete", 0.0, 3): [1, 0.5005, 0.001, 0],
    ("normal", 0.0, 3): [1, 0.5005, 0.001, 0],
    ("simple", 0.0, 4): [1, 0.75, 0.5, 0.25, 0],
    ("simple", 1.15, 4): [1, 0.90453, 0.75951, 0.51284, 0],
    ("sgm_uniform", 0.0, 4): [1, 0.75025, 0.5005, 0.25075, 0],
    ("karras", 0.0, 3): [1, (0.5 + 0.5 * 0.001 ** (1 / 7)) ** 7, 0.001, 0],
    ("exponential", 0.0, 3): [1, math.sqrt(0.001), 0.001, 0],
    ("kl_optimal", 0.0, 3): [1, math.tan((math.atan(1) + math.atan(0.001)) / 2), 0.001, 0],
    # round(999 * 0.8243) + 1, round(999 * 0.1757) + 1
    ("beta", 0.0, 4): [1, 0.824, 0.501, 0.177, 0],
    ("smoothstep", 0.0, 4): [1, 0.844, 0.501, 0.157, 0],
    ("lcm", 0.0, 4): [1, 0.76, 0.5, 0.26, 0],
    ("flux", None, 4): [1, 0.75, 0.5, 0.25, 0],
    ("flux", 1.15, 2): [1, math.exp(1.15) / (math.exp(1.15) + 1), 0],
}


@pytest.mark.parametrize(("name", "mu", "steps"), KNOWN)
def test_schedules_have_the_known_times(name, mu, steps):
    assert make_schedule(name, steps, mu) == pytest.approx(KNOWN[name, mu, steps], abs=1e-5)


def test_karras_and_exponential_are_diffusers_conversions():
    from diffusers import FlowMatchEulerDiscreteScheduler

    ends = np.array([1.0, *np.linspace(0.9, 0.1, 8), make_schedule("karras", 10, 1.15)[-2]])
    for name in ("karras", "exponential"):
        scheduler = FlowMatchEulerDiscreteScheduler(**{f"use_{name}_sigmas": True})
        scheduler.set_timesteps(sigmas=ends)  # their ends alone matter
        assert scheduler.sigmas.tolist() == pytest.approx(make_schedule(name, 10, 1.15), abs=1e-6)


def test_beta_quantiles_are_scipys():
    from pulid_generate.sampling.schedules import _beta_quantile

    # scipy.stats.beta.ppf(probability, 0.6, 0.6)
    truth = {
        0.0: 0,
        0.01: 0.00086124,
        0.1: 0.03958441,
        0.25: 0.17568038,
        0.5: 0.5,
        0.9: 0.96041559,
        1.0: 1,
    }
    assert _beta_quantile(np.array(list(truth))) == pytest.approx(list(truth.values()), abs=1e-6)


def test_the_defaults_of_mu():
    at = {"width": 128, "height": 128}
    # sd-cli -v: image_seq_len=256, mu=0.500
    assert schedule_mu("sdcpp", dev=False, **at) == pytest.approx(0.5)
    assert schedule_mu("sdcpp", dev=True, **at) == pytest.approx(0.5)
    assert schedule_mu("sdcpp", width=512, height=512, dev=True) == pytest.approx(1.15)
    # past BFL's range
    assert schedule_mu("sdcpp", width=1024, height=1024, dev=True) == pytest.approx(3.23, abs=0.01)
    assert schedule_mu("flux", dev=True, width=256, height=256) == pytest.approx(0.5)
    assert schedule_mu("flux", dev=False, **at) is None
    assert schedule_mu("simple", dev=True, **at) == 1.15
    assert schedule_mu("normal", dev=False, **at) == 1.0


@pytest.mark.parametrize(
    ("name", "steps"), [("lcm", 51), ("simple", 1001), ("beta", 500), ("smoothstep", 500)]
)
def test_a_schedule_that_has_too_few_times_says_so(name, steps):
    with pytest.raises(
        RequestError, match=f"scheduler {name}: does not have {steps} different times"
    ):
        make_schedule(name, steps, 1.15)


# sd-cli: t_enc = int(steps * strength), one less if that is all of them; the schedule from steps -
# t_enc - 1 on
CUTS = [
    (4, 1.0, 4),
    (4, 0.99, 4),
    (4, 0.75, 4),
    (4, 0.5, 3),
    (4, 0.1, 1),
    (4, 0.0, 1),
    (20, 0.75, 16),
    (20, 0.35, 8),
    (1, 0.5, 1),
]


@pytest.mark.parametrize(("steps", "strength", "kept"), CUTS)
def test_a_cut_schedule_keeps_the_end(steps, strength, kept):
    times = make_schedule("flux", steps, None)
    assert cut_schedule(times, strength) == times[steps - kept :]
