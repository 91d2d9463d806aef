"""The denoise loop: a model's velocities, guided, through a sampler. Knows nothing of models or
identities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from pulid_generate.errors import RequestError
from pulid_generate.sampling.guidance import Branch, Guidance, Inpaint
from pulid_generate.sampling.names import DEFAULT_ETA, check_method
from pulid_generate.sampling.samplers import SAMPLERS


class Predict(Protocol):
    """The model. latent (1, L, 64) at time t -> velocity of that shape, float32.

    step: which step (from 0) asks; a method of two evaluations asks twice, at two times. branch:
    "positive", "negative" (the unconditional branch of true CFG), or "skip" (positive without some
    layers).
    """

    def __call__(self, latent: Tensor, t: float, *, step: int, branch: Branch) -> Tensor: ...


UNGUIDED = Guidance()


def _no_noise() -> Tensor:
    raise RequestError("this sampling method adds noise; give denoise() fresh_noise")


def denoise(
    predict: Predict,
    latent: Tensor,
    times: Sequence[float],
    *,
    method: str = "euler",
    eta: float | None = None,
    guidance: Guidance = UNGUIDED,
    inpaint: Inpaint | None = None,
    fresh_noise: Callable[[], Tensor] = _no_noise,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    on_denoised: Callable[[Tensor], None] | None = None,
    noisy: bool = False,
) -> Tensor:
    """The latent (1, L, 64) at times[-1], from the one at times[0].

    times: falling, as `make_schedule` gives them. method: a name of `names.METHODS`; "euler" is
    x += (t_next - t) * v. eta: how much noise a method adds, None for its default. fresh_noise:
    standard normal (1, L, 64) on the latent's device, asked for by the methods that add noise, once
    per step at most. on_step: called with the steps done and the steps in all. on_denoised: called
    with what the latent would come to, by each evaluation; if noisy, with what went into it.
    Raises RequestError for a method that is refused.
    """
    total = len(times) - 1
    check_method(method)
    if eta is None:
        eta = DEFAULT_ETA.get(method, 0.0)

    def velocity(latent: Tensor, t: float, step: int) -> Tensor:
        positive = guided = predict(latent, t, step=step, branch="positive")
        if guidance.has_negative(step):
            negative = predict(latent, t, step=step, branch="negative")
            guided = negative + guidance.cfg_scale * (positive - negative)
        if guidance.has_skip(step):
            skipped = predict(latent, t, step=step, branch="skip")
            guided = guided + guidance.slg_scale * (positive - skipped)
        if inpaint is not None:
            guided = inpaint.hold(guided, latent, t)
        if on_denoised is not None:
            on_denoised(latent if noisy else latent - t * guided)
        return guided

    steps = SAMPLERS[method](velocity, latent, times, fresh_noise, eta)
    for done in range(1, total + 1):
        latent = next(steps)
        on_step(done, total)
    return latent
