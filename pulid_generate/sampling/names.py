"""The names of samplers and schedules, sd-cli's where it has them, and why some of its names are
refused.

Tables and their check. Knows nothing of what a name does, imports no torch: flags and requests read
it.

Source of the names: leejet/stable-diffusion.cpp src/stable-diffusion.cpp (`sample_method_to_str`,
`scheduler_to_str`); of the defaults: its src/pipeline/request.cpp (`resolve_eta`,
`default_scheduler`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from pulid_generate.errors import RequestError

# who draws the noise: torch's generator, or the one that sd-cli's --rng cuda has
Rng = Literal["cpu", "cuda"]

METHODS: dict[str, str] = {
    "euler": "first order, one evaluation per step",
    "heun": "second order, two evaluations per step",
    "dpm2": "second order, two evaluations per step, the second half-way in log sigma",
    "dpm++2m": "second order from the step before, one evaluation per step",
    "ipndm": "fourth-order Adams-Bashforth for equal steps, one evaluation per step",
    "ipndm_v": "ipndm that knows its step sizes at second order",
    "res_multistep": "second-order exponential integrator, one evaluation per step",
    "res_2s": "second-order exponential integrator, two evaluations per step",
    "unipc": "predictor and corrector of second order, one evaluation per step (not in sd-cli)",
    "euler_a": "Euler with fresh noise in every step",
    "dpm++2s_a": "second order with fresh noise in every step, two evaluations",
    "lcm": "to the clean picture and back with fresh noise, for models distilled that way",
    "ddim_trailing": "euler_a without its noise, on the schedule 'simple'",
}

# What a method that can add noise takes when no eta is given. Methods that are not here never read
# it.
DEFAULT_ETA: dict[str, float] = {
    "euler_a": 1.0,
    "dpm++2s_a": 1.0,
    "ddim_trailing": 0.0,
    "res_multistep": 0.0,
    "res_2s": 0.0,
}

_OTHER_NOISE = (
    "its noise is written for models whose picture is not scaled down as noise comes in; "
    "Flux is a flow, and would get too much of it"
)
_OTHER_CFG = (
    "it wants the picture of the negative branch in each step and scales it as no flow does"
)
REFUSED_METHODS: dict[str, str] = {
    "dpm++2mv2": (
        "its steps do not add up to the whole way where their sizes differ, "
        "so more steps never settle its picture"
    ),
    "tcd": "its steps are those of Stable Diffusion's 1,000 timesteps; Flux has none",
    "dpm++2m_sde": _OTHER_NOISE,
    "dpm++2m_sde_bt": _OTHER_NOISE,
    "euler_cfg_pp": _OTHER_CFG,
    "euler_a_cfg_pp": _OTHER_CFG,
    "er_sde": "it is not built in",
    "euler_ge": "it is not built in",
    "lms": "it is not built in",
}

SCHEDULES: dict[str, str] = {
    "flux": "Black Forest Labs' own: shifted by the picture's size for dev, linear for schnell",
    "sdcpp": (
        "sd-cli's default, which counts four times the tokens and shifts schnell too: "
        "repeats its pictures"
    ),
    "discrete": "1,000 shifted timesteps, evenly, both ends included",
    "simple": "every so many of 1,000 shifted timesteps",
    "sgm_uniform": "as discrete, but the last step starts one step earlier",
    "karras": "Karras et al. 2022 with rho 7, between the ends of the shifted timesteps",
    "exponential": "even in log sigma, between the same ends",
    "kl_optimal": "even in the arctangent of sigma, between the same ends",
    "beta": "shifted timesteps at the quantiles of Beta(0.6, 0.6): dense at both ends",
    "smoothstep": "shifted timesteps along 3x^2 - 2x^3: close to beta",
    "lcm": "every so many of LCM's 50 training timesteps",
}
# sd-cli knows it too
SCHEDULE_ALIASES: dict[str, str] = {"normal": "discrete"}

REFUSED_SCHEDULES: dict[str, str] = {
    "ays": "its noise levels were published for SD 1.5, SDXL and SVD only",
    "gits": "its noise levels are Stable Diffusion's, up to 14.6; Flux ends at 1",
    "ltx2": "it is LTX-2's",
    "flux2": "it is FLUX.2's",
    "logit_normal": "it is Ideogram's",
    "llada_image": "it is LLaDA-Image's",
    "bong_tangent": "it is not built in",
}

# every other method: flux
DEFAULT_SCHEDULE: dict[str, str] = {"lcm": "lcm", "ddim_trailing": "simple"}


def check_method(name: str) -> str:
    """The name itself. Raises RequestError with the reason if the sampler is refused or unknown."""
    return _check("sampling-method", name, METHODS, REFUSED_METHODS)


def check_schedule(name: str) -> str:
    """The schedule's own name, an alias resolved. Raises RequestError with the reason if it is
    refused or unknown.
    """
    return _check("scheduler", SCHEDULE_ALIASES.get(name, name), SCHEDULES, REFUSED_SCHEDULES)


def _check(flag: str, name: str, known: Collection[str], refused: Mapping[str, str]) -> str:
    if name in known:
        return name
    if name in refused:
        raise RequestError(f"{flag} {name}: {refused[name]}; choose one of {', '.join(known)}")
    raise RequestError(f"{flag} {name!r}: expected one of {', '.join(known)}")
