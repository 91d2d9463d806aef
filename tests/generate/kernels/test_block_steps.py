"""What stands between the matrix products of a block: kernels against torch, the trial that decides
whether a card may run them, and a whole model with them.
"""

from __future__ import annotations

import pytest
import torch
from support.distances import relative

from pulid_generate.networks import flux
from pulid_generate.networks.flux import FluxTransformer

block_steps = pytest.importorskip("pulid_generate.kernels.block_steps")
block_steps_check = pytest.importorskip("pulid_generate.kernels.block_steps_check")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [128, 384])
def test_the_trial_passes(kernel_device, dtype, width):
    assert block_steps_check.passes(kernel_device, dtype, width)


@pytest.mark.parametrize("name", ["norm_modulate", "add_gated", "norm_rotate", "gelu_into"])
def test_the_trial_notices_a_kernel_that_is_wrong(kernel_device, monkeypatch, name):
    sound = getattr(block_steps, name)

    def off_by_a_channel(x, *arguments):
        return sound(x.roll(1, dims=-1), *arguments)

    monkeypatch.setattr(block_steps, name, off_by_a_channel)
    assert not block_steps_check.passes(kernel_device, torch.float32, 256)


def test_the_trial_survives_a_kernel_that_fails(kernel_device, monkeypatch):
    def fails(*arguments):
        raise RuntimeError("no image for this card")

    monkeypatch.setattr(block_steps, "gelu_into", fails)
    assert not block_steps_check.passes(kernel_device, torch.float32, 256)
    assert not block_steps_check.passes(kernel_device, torch.float64, 256)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_with_the_kernels_predicts_what_it_predicts_without(
    kernel_device, monkeypatch, dtype
):
    torch.manual_seed(0)
    model = FluxTransformer(
        width=256, double=1, single=2, latent=64, context=48, pooled=32, guidance=True
    )
    model.to(kernel_device, dtype).requires_grad_(False)
    places = torch.zeros(12, 3, device=kernel_device)
    places[:, 2] = torch.arange(12)
    inputs = {
        "hidden_states": torch.randn(2, 12, 64),
        "encoder_hidden_states": torch.randn(2, 5, 48),
        "pooled_projections": torch.randn(2, 32),
    }
    inputs = {name: value.to(kernel_device, dtype) for name, value in inputs.items()}
    inputs |= {
        "timestep": torch.tensor([0.7, 0.3], device=kernel_device),
        "guidance": torch.tensor([3.5, 1.0], device=kernel_device),
        "img_ids": places,
        "txt_ids": torch.zeros(5, 3, device=kernel_device),
    }
    launches = []
    for name in ("norm_modulate", "add_gated", "norm_rotate", "gelu_into"):
        sound = getattr(block_steps, name)
        monkeypatch.setattr(
            block_steps,
            name,
            lambda *given, sound=sound, name=name: launches.append(name) or sound(*given),
        )
    with torch.inference_mode():
        monkeypatch.setattr(flux, "block_steps", lambda x: None)
        [plain] = model(**inputs)
        assert not launches
        monkeypatch.setattr(flux, "block_steps", lambda x: block_steps)
        [found] = model(**inputs)
    assert set(launches) == {"norm_modulate", "add_gated", "norm_rotate", "gelu_into"}
    assert relative(found.float(), plain.float()) < (1e-5 if dtype == torch.float32 else 2e-2)


def test_torch_runs_where_nobody_asked_for_kernels():
    assert flux.block_steps(torch.zeros(1, 1, 128)) is None
