"""Guidance, inpainting and noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.gaussian_flow import GaussianFlow, seeded_noise

from pulid_generate.sampling import names as sampling_names
from pulid_generate.sampling.denoise import denoise
from pulid_generate.sampling.guidance import Guidance, Inpaint, late_mask, latent_mask
from pulid_generate.sampling.noise import NoiseStream, add_noise, make_noise, philox_randn
from pulid_generate.sampling.packing import unpack
from pulid_generate.sampling.schedules import cut_schedule, make_schedule

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


@pytest.mark.parametrize("method", ["euler", "heun", "dpm++2m"])
def test_late_grey_stays_on_its_line_until_its_share_of_time_is_left(method):
    flow, seen = GaussianFlow(), []
    image = torch.ones_like(flow.start)
    # a share for each of the four tokens
    shares = torch.tensor([0.0, 0.3, 0.7, 1.0], dtype=torch.float64)
    mask = shares[None, :, None].expand_as(image)
    times = cut_schedule(make_schedule("flux", 12, None), 0.75)
    start = add_noise(image, flow.start, times[0])

    def predict(latent, t, *, step, branch):
        on_line = (latent - add_noise(image, flow.start, t)).abs().amax((0, 2)) < 1e-9
        seen.append((t / times[0], on_line))
        return flow(latent, t, step=step, branch=branch)

    inpaint = Inpaint(mask, image, times[0])
    drawn = denoise(predict, start, times, method=method, inpaint=inpaint)
    left = [t for t, _ in seen]
    for token, share in enumerate(shares.tolist()):
        # free since an earlier evaluation
        free = [any(share >= t for t in left[:number]) for number in range(len(left))]
        assert [bool(on_line[token]) for _, on_line in seen] == [not one for one in free]
    assert torch.allclose(drawn[:, 0], image[:, 0])
    free = denoise(flow, start, times, method=method)
    assert torch.equal(drawn[:, 3], free[:, 3])
    assert not torch.allclose(drawn[:, 1], free[:, 1], atol=0.01)


def test_late_mask_takes_the_mean_of_a_cell_and_lets_the_lightest_go_first():
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:8, :8] = 153
    pixels[:8, 8:12] = 153
    cells = unpack(late_mask(pixels), width=16, height=16)[0]
    assert all(torch.equal(channel, cells[0]) for channel in cells)
    assert torch.allclose(cells[0], torch.tensor([[1.0, 0.5], [0.0, 0.0]]))
    # of nothing, nothing
    assert not late_mask(np.zeros((16, 16), np.uint8)).any()


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
