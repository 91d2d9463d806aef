"""Where models run, by what is there; memory as a container sees it; latents to pixels."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pulid_extract.model_files import read_header
from pulid_generate import placement as placement_module
from pulid_generate import sampling
from pulid_generate.checkpoints import load_vae
from pulid_generate.errors import CheckpointError, RequestError
from pulid_generate.placement import Placement, available_memory
from pulid_generate.vae import decode


@pytest.fixture
def machine(monkeypatch):
    """machine("cuda") makes torch believe that this machine has one."""

    def have(*kinds: str, count: int = 2) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in kinds)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in kinds)

    return have


@pytest.mark.parametrize(
    ("kinds", "device", "dtype"),
    [(("cuda", "mps"), "cuda", torch.bfloat16), (("mps",), "mps", torch.bfloat16), ((), "cpu", torch.float32)],
)
def test_the_best_device_and_its_arithmetic_are_chosen(machine, kinds, device, dtype):
    machine(*kinds)
    chosen = Placement.choose()
    assert (chosen.device.type, chosen.dtype) == (device, dtype)
    assert chosen.text_device == chosen.vae_device == chosen.device
    assert Placement.choose("cpu").dtype == torch.float32
    assert Placement.choose("cpu", "bfloat16").dtype == torch.bfloat16


def test_encoders_and_autoencoder_on_the_cpu_compute_in_float32(machine):
    machine("cuda")
    chosen = Placement.choose(clip_on_cpu=True, vae_on_cpu=True, offload=True)
    assert (chosen.text_device.type, chosen.vae_device.type) == ("cpu", "cpu")
    assert chosen.dtype_on(chosen.text_device) == torch.float32
    assert chosen.dtype_on(chosen.device) == torch.bfloat16
    assert chosen.storage(chosen.device).type == "cpu"
    assert Placement.choose().storage(torch.device("cuda")).type == "cuda"


def test_devices_that_are_not_there_are_refused(machine):
    machine("cuda")
    assert Placement.choose("cuda:1").device.index == 1
    for name, message in (
        ("cuda:2", "there are 2 cuda devices"),
        ("mps", "usable: cuda, cpu"),
        ("cuda:x", "expected auto"),
        ("cpu:1", "1 cpu"),
    ):
        with pytest.raises(RequestError, match=message):
            Placement.choose(name)


def test_memory_is_what_the_container_may_still_take(tmp_path, monkeypatch):
    monkeypatch.setattr(placement_module, "CGROUP", tmp_path)
    monkeypatch.setattr(placement_module.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    assert available_memory() == 1000
    (tmp_path / "memory.max").write_text("900\n")
    (tmp_path / "memory.current").write_text("800\n")
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 600\n")
    assert available_memory() == 700  # mapped weights that were read are given back when needed
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() == 1000


class Canvas:
    """An autoencoder that gives its latents' first three channels back as the picture."""

    device, dtype = torch.device("cpu"), torch.float32
    config = SimpleNamespace(scaling_factor=0.5, shift_factor=0.0, block_out_channels=(1,) * 4)

    def disable_tiling(self) -> None:
        pass

    def decode(self, latents, return_dict):
        return (latents[:, :3],)


def test_pixels_are_rounded_to_the_nearest_and_clamped():
    wanted = torch.tensor([-1.5, -1.0, -1 + 1.4 / 127.5, -1 + 1.6 / 127.5, 0.999, 1.0, 7.0])
    latents = (wanted * 0.5).reshape(1, 1, 1, -1).expand(1, 16, 1, -1)
    pixels = decode(Canvas(), latents)
    assert pixels.dtype == np.uint8
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 2, 255, 255, 255]
    with pytest.raises(CheckpointError, match="NaN"):
        decode(Canvas(), latents * float("nan"))


def test_an_autoencoder_with_a_prefix_is_the_same(micro, tmp_path):
    save_file({f"vae.{name}": value for name, value in load_file(micro / "ae.safetensors").items()}, tmp_path / "ae.safetensors")
    plain, prefixed = (
        load_vae(read_header(path), torch.float32) for path in (micro / "ae.safetensors", tmp_path / "ae.safetensors")
    )
    latents = sampling.make_noise(0, 32, 32, "cpu")
    assert np.array_equal(decode(plain, latents), decode(prefixed, latents))
    assert (plain.config.scaling_factor, plain.config.shift_factor) == (0.3611, 0.1159)  # Flux's, not Stable Diffusion's
