"""Samplers: methods that follow a velocity from times[0] to times[-1], one function each, yielding
the latent of every step.

    dx/dt = v(x, t)
    dx/dl = D - x, with l = -log t and D = x - t v, the clean picture that v stands for

The second form is solved exactly where D is constant; the methods that work on D use it. It never
divides by 1 - t, which is 0 at the start, and the last step, to t = 0, is x = D.

Knows nothing of guidance, models or schedules. `velocity(x, t, step)` is called at times above 0
only.

Sources: leejet/stable-diffusion.cpp src/runtime/denoiser.hpp, whose steps these are for its names,
after crowsonkb/k-diffusion and ComfyUI; Lu et al. 2022 arXiv:2211.01095 (dpm++); Zhang and Chen
2022 arXiv:2204.13902 (ipndm); Refined Exponential Solver arXiv:2308.02157 (res);
huggingface/diffusers scheduling_unipc_multistep.py (unipc, used as it is). Its Heun and DPM++
schedulers take no times from outside, and its DPM++ and UniPC start at log(0): see `_unipc`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

Velocity = Callable[[Tensor, float, int], Tensor]
Noise = Callable[[], Tensor]
Sampler = Callable[[Velocity, Tensor, Sequence[float], Noise, float], Iterator[Tensor]]


def _euler(
    velocity: Velocity, x: Tensor, times: Sequence[float], noise: Noise, eta: float
) -> Iterator[Tensor]:
    for step, (t, t_next) in enumerate(pairwise(times)):
        x = x + (t_next - t) * velocity(x, t, step)
        yield x


def _heun(
    velocity: Velocity, x: Tensor, times: Sequence[float], noise: Noise, eta: float
) -> Iterator[Tensor]:
    for step, (t, t_next) in enumerate(pairwise(times)):
        slope = velocity(x, t, step)
        if t_next > 0:
            slope = (slope + velocity(x + (t_next - t) * slope, t_next, step)) / 2
        x = x + (t_next - t) * slope
        yield x


def _dpm2(
    velocity: Velocity, x: Tensor, times: Sequence[float], noise: Noise, eta: float
) -> Iterator[Tensor]:
    for step, (t, t_next) in enumerate(pairwise(times)):
        slope = velocity(x, t, step)
        if t_next > 0:
            middle = math.sqrt(t * t_next)
            slope = velocity(x + (middle - t) * slope, middle, step)
        x = x + (t_next - t) * slope
        yield x


def _dpmpp_2m(
    velocity: Velocity, x: Tensor, times: Sequence[float], noise: Noise, eta: float
) -> Iterator[Tensor]:
    before = None
    for step, (t, t_next) in enumerate(pairwise(times)):
        clean = ahead = x - t * velocity(x, t, step)
        if before is not None and t_next > 0:
            ratio = math.log(t / t_next) / math.log(times[step - 1] / t)
            ahead = clean + ratio / 2 * (clean - before)
        x, before = _toward(x, ahead, t_next / t), clean
        yield x


def _ipndm(
    velocity: Velocity, x: Tensor, times: Sequence[float], noise: Noise, eta: float
) -> Iterator[Tensor]:
    slopes: list[Tensor] = []
    for step, (t, t_next) in enumerate(pairwise(times)):
        slopes = [velocity(x, t, step), *slopes[:3]]
        x = x + (t_next - t) * _adams_bashforth(slopes)
        yield x


def _ipndm_v(
    velocity: Velocity, x: Tensor, times: Sequence[float], noise: Noise, eta: float
) -> Iterator[Tensor]:
    slopes: list[Tensor] = []
    for step, (t, t_next) in enumerate(pairwise(times)):
        slopes = [velocity(x, t, step), *slopes[:3]]
        if len(slopes) == 2:
            ahead = (t_next - t) / (t - times[step - 1]) / 2
            x = x + (t_next - t) * (slopes[0] + ahead * (slopes[0] - slopes[1]))
        else:
            x = x + (t_next - t) * _adams_bashforth(slopes)
        yield x


def _euler_ancestral(
    velocity: Velocity, x: Tensor, times: Sequence[float], noise: Noise, eta: float
) -> Iterator[Tensor]:
    for step, (t, t_next) in enumerate(pairwise(times)):
        down, keep, up = _ancestral(t, t_next, eta)
        x = x + (down - t) * velocity(x, t, step)
        yield (x := _renoise(x, keep, up, noise))


def _dpmpp_2s_ancestral(
    velocity: Velocity, x: Tensor, times: Sequence[float], noise: Noise, eta: float
) -> Iterator[Tensor]:
    for step, (t, t_next) in enumerate(pairwise(times)):
        down, keep, up = _ancestral(t, t_next, eta)
        clean = x - t * velocity(x, t, step)
        # at t = 1 the middle is t itself
        if down > 0 and 1 - t >= 1e-6:
            # half-way in log((1 - t) / t)
            middle = 1 / (1 + math.sqrt((1 - t) / t * (1 - down) / down))
            half = _toward(x, clean, middle / t)
            clean = half - middle * velocity(half, middle, step)
        x = _toward(x, clean, down / t)
        yield (x := _renoise(x, keep, up, noise))


def _res_multistep(
    velocity: Velocity, x: Tensor, times: Sequence[float], noise: Noise, eta: float
) -> Iterator[Tensor]:
    before, down_before = None, 0.0
    for step, (t, t_next) in enumerate(pairwise(times)):
        down, keep, up = _ancestral(t, t_next, eta)
        clean = x - t * velocity(x, t, step)
        if before is None or down == 0:
            x = _toward(x, clean, down / t)
        else:
            h = math.log(t / down)
            # negative: the evaluation before lies behind
            share = math.log(down_before / times[step - 1]) / h
            newer, older = _phi1(-h) - _phi2(-h) / share, _phi2(-h) / share
            x = x * (down / t) + h * (newer * clean + older * before)
        before, down_before = clean, down
        yield (x := _renoise(x, keep, up, noise))


def _res_2s(
    velocity: Velocity, x: Tensor, times: Sequence[float], noise: Noise, eta: float
) -> Iterator[Tensor]:
    for step, (t, t_next) in enumerate(pairwise(times)):
        down, keep, up = _ancestral(t, t_next, eta)
        slope = velocity(x, t, step)
        if down == 0:
            x = x - t * slope
        else:
            h, middle = math.log(t / down), math.sqrt(t * down)
            half = x + (middle - t) * slope
            # D - x, twice
            first, second = -t * slope, half - middle * velocity(half, middle, step) - x
            x = x + h * ((_phi1(-h) - 2 * _phi2(-h)) * first + 2 * _phi2(-h) * second)
        yield (x := _renoise(x, keep, up, noise))


def _lcm(
    velocity: Velocity, x: Tensor, times: Sequence[float], noise: Noise, eta: float
) -> Iterator[Tensor]:
    for step, (t, t_next) in enumerate(pairwise(times)):
        x = x - t * velocity(x, t, step)
        yield (x := _renoise(x, 1 - t_next, t_next, noise))


def _unipc(
    velocity: Velocity, x: Tensor, times: Sequence[float], noise: Noise, eta: float
) -> Iterator[Tensor]:
    """diffusers' own. It moves a first time of 1 to 1 - 1e-6, since log((1 - t) / t) has no value
    there, and adds the last 0 itself.
    """
    from diffusers import UniPCMultistepScheduler

    scheduler: Any = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True
    )
    scheduler.set_timesteps(sigmas=np.array(times[:-1]))
    # its look-up of rounded timesteps confuses neighbours
    scheduler.set_begin_index(0)
    for step, t in enumerate(times[:-1]):
        x = scheduler.step(velocity(x, t, step), t, x, return_dict=False)[0]
        yield x


SAMPLERS: dict[str, Sampler] = {
    "euler": _euler,
    "heun": _heun,
    "dpm2": _dpm2,
    "dpm++2m": _dpmpp_2m,
    "ipndm": _ipndm,
    "ipndm_v": _ipndm_v,
    "res_multistep": _res_multistep,
    "res_2s": _res_2s,
    "unipc": _unipc,
    "euler_a": _euler_ancestral,
    "dpm++2s_a": _dpmpp_2s_ancestral,
    "lcm": _lcm,
    "ddim_trailing": _euler_ancestral,
}
TWO_EVALUATIONS = {"heun", "dpm2", "res_2s", "dpm++2s_a"}


def evaluations(method: str, steps: int) -> int:
    """How often `method` asks for a velocity in so many steps (dpm++2s_a: at most); the last step
    is always one evaluation.
    """
    return 2 * steps - 1 if method in TWO_EVALUATIONS else steps


# -------------------------------------------------------------------------------------- their parts


def _toward(x: Tensor, clean: Tensor, ratio: float) -> Tensor:
    """The latent at `ratio` times its time if the clean picture does not change on the way."""
    return ratio * x + (1 - ratio) * clean


def _ancestral(t: float, t_next: float, eta: float) -> tuple[float, float, float]:
    """(down, keep, up): go to time `down`, scale by `keep`, add noise of size `up`, and the latent
    is one of time t_next.

    Rectified-flow form, as ComfyUI and sd-cli have it: keep = (1 - t_next) / (1 - down), (keep *
    down)^2 + up^2 = t_next^2. eta: 0 adds nothing; more than 1 counts as 1, since there is no more
    noise to be had.
    """
    if eta <= 0 or t_next <= 0:
        return t_next, 1.0, 0.0
    down = t_next * (1 + (t_next / t - 1) * min(eta, 1.0))
    keep = (1 - t_next) / (1 - down)
    return down, keep, math.sqrt(max(t_next**2 - (keep * down) ** 2, 0.0))


def _renoise(x: Tensor, keep: float, up: float, noise: Noise) -> Tensor:
    return keep * x + up * noise() if up > 0 else x


def _adams_bashforth(slopes: Sequence[Tensor]) -> Tensor:
    """The slope of the next step from up to four, newest first, for equal steps."""
    weights = {
        1: (1.0,),
        2: (3 / 2, -1 / 2),
        3: (23 / 12, -16 / 12, 5 / 12),
        4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
    }[len(slopes)]
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        total = total + weight * slope
    return total


def _phi1(z: float) -> float:
    return math.expm1(z) / z


def _phi2(z: float) -> float:
    return (_phi1(z) - 1) / z
