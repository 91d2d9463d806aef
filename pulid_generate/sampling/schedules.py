"""The times of the steps: steps + 1 numbers from 1 (noise) down to 0 (the picture).

Knows nothing of samplers. A time is what others call sigma: the share of noise in the latent.

Sources: black-forest-labs/flux src/flux/sampling.py (flux: the resolution shift);
leejet/stable-diffusion.cpp src/runtime/denoiser.hpp (all others, under its names, and the shifted
timesteps S they choose from); huggingface/diffusers scheduling_flow_match_euler_discrete.py has the
same conversions to Karras and exponential spacing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch

from pulid_generate.errors import RequestError
from pulid_generate.files.layouts import LATENT_SCALE
from pulid_generate.sampling.names import check_schedule
from pulid_generate.sampling.packing import token_count

# the BFL resolution shift: mu is linear in the number of image tokens through these two points
SHIFT_TOKENS, SHIFT_MU = (256, 4096), (0.5, 1.15)
# timesteps 0..999 that sd.cpp's schedules choose from
TRAIN_STEPS = 1000
# dev, schnell: sd.cpp's default flow shifts for them
DISCRETE_MU = {True: 1.15, False: 1.0}
# Karras et al. 2022, arXiv:2206.00364
KARRAS_RHO = 7.0
# of Beta(0.6, 0.6), see _beta_quantile
BETA_EXPONENT = 2 * 0.6 - 1
LCM_STEPS = 50

# how many steps -> that many falling timesteps in 0..999
Positions = Callable[[int], Sequence[float]]
# timestep -> time
Shift = Callable[[float], float]
# how many steps, shift -> the times of the schedule but the last
Spacing = Callable[[int, Shift], list[float]]


def resolution_mu(tokens: int) -> float:
    """BFL's shift for a picture of so many image tokens: 0.5 at 256, 1.15 at 4,096, linear between
    and beyond.
    """
    slope = (SHIFT_MU[1] - SHIFT_MU[0]) / (SHIFT_TOKENS[1] - SHIFT_TOKENS[0])
    return SHIFT_MU[0] + slope * (tokens - SHIFT_TOKENS[0])


def schedule_mu(name: str, *, width: int, height: int, dev: bool) -> float | None:
    """The shift that a schedule takes when none is given. None: no shift.

    flux: BFL's, for dev only. sdcpp: the same formula with (H/8)(W/8) "tokens", for dev and schnell
    alike; this is what sd-cli does. The others shift by 1.15 (dev) or 1.0 (schnell), whatever the
    size.
    """
    name = check_schedule(name)
    if name == "flux":
        return resolution_mu(token_count(width, height)) if dev else None
    if name == "sdcpp":
        return resolution_mu((width // LATENT_SCALE) * (height // LATENT_SCALE))
    return DISCRETE_MU[dev]


def make_schedule(name: str, steps: int, mu: float | None) -> list[float]:
    """steps + 1 times of the schedule of that name, strictly falling from at most 1 to 0.

    mu: the shift t -> e^mu / (e^mu + 1/t - 1), None for none; `schedule_mu` has the defaults.
    Raises RequestError for a refused name, or if the schedule has fewer different times than there
    are steps.
    """
    name = check_schedule(name)
    if name in SPACINGS:
        times = [*SPACINGS[name](steps, _timestep_shift(mu)), 0.0]
    else:
        times = shifted_schedule(steps, mu)
    if any(a <= b for a, b in pairwise(times)):
        raise RequestError(
            f"scheduler {name}: does not have {steps} different times; "
            "choose fewer steps, or the scheduler flux"
        )
    return times


def shifted_schedule(steps: int, mu: float | None) -> list[float]:
    """BFL's schedule: linear, or with `mu` shifted by t = e^mu / (e^mu + 1/t - 1). float32
    arithmetic, as BFL's.
    """
    times = torch.linspace(1, 0, steps + 1)
    if mu is not None:
        times = math.exp(mu) / (math.exp(mu) + (1 / times - 1))
    return times.tolist()


def cut_schedule(times: Sequence[float], strength: float) -> list[float]:
    """The end of a schedule, as image-to-image runs it: int(steps * strength) + 1 steps, at most
    all of them.

    strength 1 changes nothing; 0 leaves the last step. As sd-cli's, so 4 steps at 0.75 are all 4,
    and start from nothing but noise.
    """
    steps = len(times) - 1
    if strength >= 1:
        return list(times)
    # float32: 20 * 0.35 is 7 there, and 6 in float64
    kept = min(int(np.float32(steps) * np.float32(strength)), steps - 1) + 1
    return list(times[steps - kept :])


# --------------------------------------------------------------- sd.cpp's spacings of its timesteps


def _timestep_shift(mu: float | None) -> Shift:
    """S: timestep 0..999 -> time. S(999) = 1."""
    scale = math.exp(mu or 0.0)
    return lambda timestep: scale / (scale + (TRAIN_STEPS / (timestep + 1) - 1))


def _at(positions: Positions) -> Spacing:
    """A spacing from the timesteps that it visits."""
    return lambda steps, shift: [shift(timestep) for timestep in positions(steps)]


def _between(warp: Callable[[float], float], unwarp: Callable[[float], float]) -> Spacing:
    """A spacing that is even in warp(time), between the times of the last and the first
    timestep.
    """

    def spacing(steps: int, shift: Shift) -> list[float]:
        most, least = warp(shift(TRAIN_STEPS - 1)), warp(shift(0))
        times = [shift(TRAIN_STEPS - 1)]
        for i in range(1, steps):
            times.append(unwarp(most + (least - most) * i / (steps - 1)))
        return times

    return spacing


def _discrete(steps: int) -> list[float]:
    last = TRAIN_STEPS - 1
    if steps == 1:
        return [last]
    return [last - last * i / (steps - 1) for i in range(steps)]


def _simple(steps: int) -> list[float]:
    # float32, as the original: the floor below depends on it
    stride = np.float32(TRAIN_STEPS) / np.float32(steps)
    return [TRAIN_STEPS - 1 - int(np.float32(i) * stride) for i in range(steps)]


def _beta(steps: int) -> list[float]:
    quantiles = _beta_quantile(1 - np.arange(steps) / steps)
    return np.floor(quantiles * (TRAIN_STEPS - 1) + 0.5).tolist()


def _beta_quantile(probability: np.ndarray) -> np.ndarray:
    """Quantiles of Beta(0.6, 0.6), to 1e-6.

    With x = sin(a)^2 the density becomes (sin a cos a)^0.2, which is finite at both ends.
    """
    angle = np.linspace(0, np.pi / 2, 1 << 18)
    density = np.abs(np.sin(angle) * np.cos(angle)) ** BETA_EXPONENT
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return np.interp(probability, mass / mass[-1], np.sin(angle) ** 2)


def _smoothstep(steps: int) -> list[float]:
    positions = 1 - np.arange(steps) / steps
    return np.floor(positions**2 * (3 - 2 * positions) * (TRAIN_STEPS - 1) + 0.5).tolist()


def _lcm(steps: int) -> list[float]:
    return [
        (LCM_STEPS - i * LCM_STEPS // steps) * (TRAIN_STEPS // LCM_STEPS) - 1 for i in range(steps)
    ]


SPACINGS: dict[str, Spacing] = {
    "discrete": _at(_discrete),
    "simple": _at(_simple),
    "sgm_uniform": _at(lambda steps: [(TRAIN_STEPS - 1) * (1 - i / steps) for i in range(steps)]),
    "karras": _between(lambda t: t ** (1 / KARRAS_RHO), lambda x: x**KARRAS_RHO),
    "exponential": _between(math.log, math.exp),
    "kl_optimal": _between(math.atan, math.tan),
    "beta": _at(_beta),
    "smoothstep": _at(_smoothstep),
    "lcm": _at(_lcm),
}
