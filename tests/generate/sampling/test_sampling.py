"""Samplers: on a flow whose solution is known, and against diffusers' own schedulers; and their
names.
"""

from __future__ import annotations

import inspect
import math
from itertools import pairwise

import pytest
import torch
from support.gaussian_flow import GaussianFlow, seeded_noise

from pulid_generate.errors import RequestError
from pulid_generate.sampling import names as sampling_names
from pulid_generate.sampling.denoise import denoise
from pulid_generate.sampling.samplers import SAMPLERS, evaluations
from pulid_generate.sampling.schedules import make_schedule

DETERMINISTIC = {
    # method -> its order. euler_a and dpm++2s_a without their noise; a multistep method starts with
    # one step of first order
    **dict.fromkeys(("euler", "euler_a", "ddim_trailing"), 1),
    **dict.fromkeys(
        (
            "heun",
            "dpm2",
            "dpm++2m",
            "ipndm",
            "ipndm_v",
            "res_multistep",
            "res_2s",
            "unipc",
            "dpm++2s_a",
        ),
        2,
    ),
}


# ----------------------------------------------------------------------------------------- samplers


@pytest.mark.parametrize("method", DETERMINISTIC)
def test_a_sampler_converges_with_its_order(method):
    flow, order, errors = GaussianFlow(), DETERMINISTIC[method], []
    for steps in (32, 64, 128):
        errors.append(
            flow.error(
                denoise(
                    flow, flow.start, make_schedule("flux", steps, None), method=method, eta=0.0
                )
            )
        )
    observed = [math.log2(a / b) for a, b in pairwise(errors)]
    assert order - 0.35 < observed[-1] < order + 0.35, (errors, observed)
    assert errors[-1] < (1e-2 if order == 1 else 1e-3)


@pytest.mark.parametrize("method", sampling_names.METHODS)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_every_sampler_ends_on_a_point_it_knows(method, steps):
    """Where the data is one point, every velocity leads straight to it, and the last step must
    arrive, however few there are.
    """
    flow = GaussianFlow()
    flow.spread = torch.zeros_like(flow.spread)
    done = []
    ours = denoise(
        flow,
        flow.start,
        make_schedule("flux", steps, 1.15),
        method=method,
        fresh_noise=seeded_noise(flow.start),
        on_step=lambda step, total: done.append((step, total)),
    )
    assert float((ours - flow.mean).abs().max()) < 1e-5
    assert done == [(step, steps) for step in range(1, steps + 1)]
    asked = [step for step, _ in flow.asked]
    assert asked == sorted(asked)
    assert set(asked) == set(range(steps))
    assert steps <= len(asked) <= evaluations(method, steps)


def test_euler_is_the_plain_loop_bit_for_bit():
    flow, times = GaussianFlow(), make_schedule("flux", 7, 1.15)
    ours, plain = denoise(flow, flow.start.float(), times), flow.start.float()
    for t, t_next in pairwise(times):
        plain = plain + (t_next - t) * flow(plain, t, step=0, branch="positive")
    assert torch.equal(ours, plain)


def test_evaluations_are_counted():
    flow = GaussianFlow()
    for method, steps, count in (
        ("euler", 5, 5),
        ("heun", 5, 9),
        ("res_2s", 5, 9),
        ("unipc", 5, 5),
    ):
        flow.asked.clear()
        denoise(flow, flow.start, make_schedule("flux", steps, None), method=method)
        assert len(flow.asked) == count == evaluations(method, steps)


def through_diffusers(scheduler, flow, times, generator=None):
    """The flow's end through a scheduler of diffusers that was given our times."""
    latent, options = flow.start.float(), {} if generator is None else {"generator": generator}
    for step, t in enumerate(times):
        velocity = flow(latent, float(t), step=step, branch="positive").float()
        latent = scheduler.step(
            velocity, torch.tensor(float(t)) * 1000, latent, return_dict=False, **options
        )[0]
    return latent


def test_euler_heun_and_euler_a_are_diffusers():
    from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
    from diffusers.schedulers.scheduling_ltx_euler_ancestral_rf import LTXEulerAncestralRFScheduler

    flow, times = GaussianFlow(), make_schedule("flux", 6, 1.15)
    flow.mean, flow.spread, start = flow.mean.float(), flow.spread.float(), flow.start.float()

    euler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    euler.set_timesteps(sigmas=times[:-1])
    euler.set_begin_index(0)
    assert euler.sigmas.tolist() == pytest.approx(times, abs=1e-7)
    assert torch.allclose(
        denoise(flow, start, times), through_diffusers(euler, flow, times[:-1]), atol=1e-5
    )

    heun = FlowMatchHeunDiscreteScheduler()
    heun.set_timesteps(6)  # takes no times, so they are put in
    heun.sigmas = torch.tensor([times[0], *(t for t in times[1:-1] for _ in "ab"), 0.0])
    heun.set_begin_index(0)
    twice = [times[0], *(t for t in times[1:-1] for _ in "ab")]
    ours = denoise(flow, start, times, method="heun")
    assert torch.allclose(ours, through_diffusers(heun, flow, twice), atol=1e-5)
    assert not torch.allclose(ours, denoise(flow, start, times), atol=1e-2)

    ancestral = LTXEulerAncestralRFScheduler(eta=1.0)
    ancestral.set_timesteps(sigmas=times)
    ancestral.set_begin_index(0)
    theirs = through_diffusers(ancestral, flow, times[:-1], torch.Generator().manual_seed(5))
    ours = denoise(flow, start, times, method="euler_a", fresh_noise=seeded_noise(start, 5))
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(
        ours,
        denoise(flow, start, times, method="euler_a", fresh_noise=seeded_noise(start, 6)),
        atol=1e-2,
    )


def test_unipc_follows_our_times(monkeypatch):
    """diffusers' scheduler: no shift, no recomputed times, no look-up by rounded timestep; only the
    first 1 moves by a millionth.
    """
    from diffusers import UniPCMultistepScheduler

    made = []
    original = UniPCMultistepScheduler.set_timesteps
    monkeypatch.setattr(
        UniPCMultistepScheduler,
        "set_timesteps",
        lambda self, **options: (original(self, **options), made.append(self))[0],
    )
    flow = GaussianFlow()
    for times in (make_schedule("flux", 5, 1.15), [0.7, 0.69999, 0.4, 0.0]):
        given = list(times)
        denoise(flow, flow.start, times, method="unipc")
        assert times == given  # it nudges a copy
        assert made[-1].sigmas.tolist() == pytest.approx(times, abs=2e-6)


def test_the_ancestral_step_keeps_the_amount_of_noise():
    """keep * down and up must add up to the noise of the next time, and keep to its share of the
    picture.
    """
    from pulid_generate.sampling.samplers import _ancestral

    for t, t_next in ((1.0, 0.8), (0.8, 0.3), (0.3, 0.01)):
        for eta in (0.0, 0.3, 1.0, 7.0):
            down, keep, up = _ancestral(t, t_next, eta)
            assert (keep * down) ** 2 + up**2 == pytest.approx(t_next**2)
            assert keep * (1 - down) == pytest.approx(1 - t_next)
            assert (up > 0) == (eta > 0)
    assert _ancestral(0.5, 0.25, 7.0) == _ancestral(0.5, 0.25, 1.0)
    assert _ancestral(0.5, 0.0, 1.0) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("method", ["euler_a", "dpm++2s_a", "res_multistep", "res_2s"])
def test_fresh_noise_leaves_the_distribution_alone(method):
    """With noise in every step the end is another sample of the same data: its mean and spread are
    the data's.
    """
    flow = GaussianFlow((1, 300, 64))
    flow.mean, flow.spread = torch.full_like(flow.mean, 0.7), torch.full_like(flow.spread, 0.5)
    times = make_schedule("flux", 200, None)
    ours = denoise(
        flow, flow.start, times, method=method, eta=1.0, fresh_noise=seeded_noise(flow.start)
    )
    assert float(ours.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(ours.std()) == pytest.approx(0.5, abs=0.02)
    assert flow.error(ours) > 0.3  # and it is not the one that the flow alone leads to
    again = denoise(
        flow, flow.start, times, method=method, eta=1.0, fresh_noise=seeded_noise(flow.start)
    )
    assert torch.equal(ours, again)


def test_lcm_goes_to_the_picture_and_back():
    flow, noise = GaussianFlow(), seeded_noise(GaussianFlow().start, 9)
    ours = denoise(
        flow, flow.start, [1.0, 0.4, 0.0], method="lcm", fresh_noise=seeded_noise(flow.start, 9)
    )
    first = flow.start - flow(flow.start, 1.0, step=0, branch="positive")
    middle = 0.6 * first + 0.4 * noise()
    assert torch.allclose(ours, middle - 0.4 * flow(middle, 0.4, step=1, branch="positive"))


def test_a_method_that_adds_noise_wants_some():
    flow = GaussianFlow()
    with pytest.raises(RequestError, match="fresh_noise"):
        denoise(flow, flow.start, [1.0, 0.5, 0.0], method="euler_a")
    denoise(flow, flow.start, [1.0, 0.5, 0.0], method="euler_a", eta=0.0)  # none asked for


# ---------------------------------------------------------------------------------------- the names


def test_the_tables_agree():
    assert set(SAMPLERS) == set(sampling_names.METHODS)
    assert set(DETERMINISTIC) == set(sampling_names.METHODS) - {"lcm"}
    assert not set(sampling_names.METHODS) & set(sampling_names.REFUSED_METHODS)
    assert not set(sampling_names.SCHEDULES) & set(sampling_names.REFUSED_SCHEDULES)
    assert set(sampling_names.DEFAULT_ETA) | set(sampling_names.DEFAULT_SCHEDULE) <= set(
        sampling_names.METHODS
    )
    assert set(sampling_names.DEFAULT_SCHEDULE.values()) <= set(sampling_names.SCHEDULES)
    for method, sampler in SAMPLERS.items():  # an eta is read, or it is in no table
        reads = "eta" in inspect.getsource(sampler).split("Iterator[Tensor]:", 1)[1]
        assert reads == (method in sampling_names.DEFAULT_ETA), method


@pytest.mark.parametrize("name", [*sampling_names.REFUSED_METHODS, "eular"])
def test_a_refused_method_says_why(name):
    with pytest.raises(
        RequestError, match=f"sampling-method '?{name.replace('+', '[+]')}"
    ) as caught:
        denoise(GaussianFlow(), GaussianFlow().start, [1.0, 0.0], method=name)
    assert sampling_names.REFUSED_METHODS.get(name, "expected one of") in str(caught.value)


@pytest.mark.parametrize("name", [*sampling_names.REFUSED_SCHEDULES, "karas"])
def test_a_refused_schedule_says_why(name):
    with pytest.raises(RequestError, match=f"scheduler '?{name}") as caught:
        make_schedule(name, 4, None)
    assert sampling_names.REFUSED_SCHEDULES.get(name, "expected one of") in str(caught.value)
