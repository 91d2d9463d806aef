"""Schedules, samplers, guidance and inpainting: on a flow whose solution is known, and against
diffusers' own schedulers.
"""

from __future__ import annotations

import inspect
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from pulid_generate.errors import RequestError
from pulid_generate.sampling import names as sampling_names
from pulid_generate.sampling.denoise import denoise
from pulid_generate.sampling.guidance import Guidance, Inpaint, latent_mask
from pulid_generate.sampling.noise import NoiseStream, add_noise, make_noise, philox_randn
from pulid_generate.sampling.packing import unpack
from pulid_generate.sampling.samplers import SAMPLERS, evaluations
from pulid_generate.sampling.schedules import cut_schedule, make_schedule, schedule_mu

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


# ---------------------------------------------------------------------------------------- schedules


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


# ----------------------------------------------------------------------------------------- guidance


class Branches:
    """A model whose branches are constants: positive 1, negative 0.25, skip 0.5."""

    def __init__(self):
        self.asked = []

    def __call__(self, latent, t, *, step, branch):
        self.asked.append((step, branch))
        return torch.full_like(latent, {"positive": 1.0, "negative": 0.25, "skip": 0.5}[branch])


GUIDED = [
    # guidance, velocity of the first and of the second step, branches that are evaluated
    (Guidance(), 1.0, 1.0, ["positive", "positive"]),
    (Guidance(cfg_scale=3.0), 2.5, 2.5, ["positive", "negative"] * 2),
    (Guidance(cfg_scale=3.0, cfg_start_step=1), 1.0, 2.5, ["positive", "positive", "negative"]),
    (Guidance(slg_scale=2.0, slg_steps=[0]), 2.0, 1.0, ["positive", "skip", "positive"]),
    (Guidance(slg_scale=0.0, slg_steps=[0]), 1.0, 1.0, ["positive", "positive"]),
    (
        Guidance(3.0, 0, 2.0, {1}),
        2.5,
        3.5,
        ["positive", "negative", "positive", "negative", "skip"],
    ),
]


@pytest.mark.parametrize(("guidance", "first", "second", "branches"), GUIDED)
def test_guidance_mixes_the_branches(guidance, first, second, branches):
    model = Branches()
    ours = denoise(model, torch.zeros(1, 2, 64), [1.0, 0.5, 0.0], guidance=guidance)
    assert ours.unique().item() == pytest.approx(-0.5 * first - 0.5 * second)
    assert [branch for _, branch in model.asked] == branches


def test_both_evaluations_of_a_step_are_guided():
    model = Branches()
    denoise(
        model,
        torch.zeros(1, 2, 64),
        [1.0, 0.5, 0.0],
        method="heun",
        guidance=Guidance(slg_scale=1.0, slg_steps=[0]),
    )
    assert model.asked == [
        (0, "positive"),
        (0, "skip"),
        (0, "positive"),
        (0, "skip"),
        (1, "positive"),
    ]


# --------------------------------------------------------------------------------------- inpainting


@pytest.mark.parametrize("method", sampling_names.METHODS)
def test_inpainting_keeps_what_is_masked_and_draws_the_rest(method):
    flow = GaussianFlow()
    image = torch.randn(
        flow.start.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64
    )
    mask = torch.zeros_like(image)
    mask[:, 2:] = 1
    times = cut_schedule(make_schedule("flux", 12, None), 0.5)
    start = add_noise(image, flow.start, times[0])
    options = {"method": method, "eta": 0.5}
    ours = denoise(
        flow, start, times, inpaint=Inpaint(mask, image), fresh_noise=seeded_noise(start), **options
    )
    free = denoise(flow, start, times, fresh_noise=seeded_noise(start), **options)
    assert torch.allclose(ours[:, :2], image[:, :2], atol=1e-5)
    assert torch.allclose(ours[:, 2:], free[:, 2:], atol=1e-9)  # this flow has no neighbours
    assert not torch.allclose(free[:, :2], image[:, :2], atol=0.1)


def test_the_known_part_is_on_its_line_at_every_step():
    """As sd-cli's blend of the clean pictures: after each step the kept part is image * (1 - t) +
    start's noise * t.
    """
    flow, seen = GaussianFlow(), []
    image, times = torch.ones_like(flow.start), make_schedule("flux", 4, None)

    def predict(latent, t, *, step, branch):
        seen.append((latent - add_noise(image, flow.start, t)).abs().max().item())
        return flow(latent, t, step=step, branch=branch)

    denoise(predict, flow.start, times, inpaint=Inpaint(torch.zeros_like(image), image))
    assert max(seen) < 1e-12


def test_a_grey_mask_mixes():
    flow, image = GaussianFlow(), torch.zeros(1, 4, 64, dtype=torch.float64)
    times = make_schedule("flux", 1, None)
    drawn = denoise(flow, flow.start, times)
    half = denoise(flow, flow.start, times, inpaint=Inpaint(torch.full_like(image, 0.5), image))
    assert torch.allclose(half, drawn / 2)


def test_latent_mask_takes_the_largest_pixel_of_a_cell():
    pixels = np.zeros((32, 48), np.uint8)
    pixels[9, 17] = 255  # cell (1, 2): token 1 (row 0, column 1), its cell (1, 0)
    pixels[31, 47] = 51
    mask = latent_mask(pixels)
    assert (mask.shape, mask.dtype) == ((1, 6, 64), torch.float32)
    cells = unpack(mask, width=48, height=32)[0]
    assert all(torch.equal(channel, cells[0]) for channel in cells)
    assert cells[0].nonzero().tolist() == [[1, 2], [3, 5]]
    assert cells[0, 1, 2] == 1.0
    assert cells[0, 3, 5].item() == pytest.approx(0.2)


# -------------------------------------------------------------------------------------------- noise


@pytest.mark.parametrize("rng", ["cpu", "cuda"])
def test_a_noise_stream_goes_on(rng):
    stream = NoiseStream(7, 64, 32, rng)
    first, second = stream.draw(), stream.draw()
    assert torch.equal(first, make_noise(7, 64, 32, rng))
    assert not torch.equal(first, second)
    assert not torch.equal(second, make_noise(8, 64, 32, rng))
    if rng == "cuda":  # Philox counts its calls
        assert torch.equal(
            second.flatten(), torch.from_numpy(philox_randn(7, second.numel(), offset=1))
        )


def test_add_noise_is_a_line_between_picture_and_noise():
    image, noise = torch.full((1, 16, 2, 2), 4.0), torch.full((1, 16, 2, 2), 8.0)
    assert torch.equal(add_noise(image, noise, 0.25), torch.full_like(image, 5.0))
    assert torch.equal(add_noise(image, noise, 1.0), noise)
    assert torch.equal(add_noise(None, noise, 0.25), torch.full_like(image, 2.0))
