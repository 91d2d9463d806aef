"""Where models run, by what is there; memory as a container sees it; latents to pixels."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pulid_extract.shared import cpu_bfloat16
from pulid_extract.shared.model_files import read_header
from pulid_generate.errors import CheckpointError, PlacementError, RequestError
from pulid_generate.files.model import Model
from pulid_generate.memory import devices, placement
from pulid_generate.memory.devices import (
    available_memory,
    available_on,
    device_name,
    find_device,
    list_devices,
)
from pulid_generate.memory.placement import Placement, parse_assignment, parse_budgets
from pulid_generate.models.autoencoder import decode, load_vae
from pulid_generate.sampling.noise import make_noise


@pytest.fixture
def machine(monkeypatch):
    """machine("cuda") makes torch believe that this machine has one."""

    def have(*kinds: str, count: int = 2) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in kinds)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in kinds)
        monkeypatch.setattr(placement, "multiplies_bfloat16", lambda: "bfloat16" in kinds)

    return have


@pytest.mark.parametrize(
    ("kinds", "device", "dtype"),
    [
        (("cuda", "mps"), "cuda", torch.bfloat16),
        (("mps",), "mps", torch.bfloat16),
        ((), "cpu", torch.float32),
        (("bfloat16",), "cpu", torch.bfloat16),
    ],
)
def test_the_best_device_and_its_arithmetic_are_chosen(machine, kinds, device, dtype):
    machine(*kinds)
    chosen = Placement.choose()
    assert (chosen.device.type, chosen.dtype) == (device, dtype)
    assert chosen.text_device == chosen.vae_device == chosen.device
    on_cpu = torch.bfloat16 if "bfloat16" in kinds else torch.float32
    assert Placement.choose("cpu").dtype == on_cpu
    assert Placement.choose("cpu", "bfloat16").dtype == torch.bfloat16
    assert Placement.choose("cpu", "float32").dtype == torch.float32


@pytest.mark.parametrize(
    ("instructions", "held_back", "multiplies"),
    [
        ({"avx512_bf16": True}, "", True),
        ({"amx_bf16": True, "avx512_bf16": False}, "", True),
        ({"bf16": True, "neon": True}, "", True),
        ({"avx2": True, "avx512_bf16": False, "l2_cache_size": 1}, "", False),
        ({"avx512_bf16": True}, "AVX512_CORE", False),
        ({"avx512_bf16": True}, "avx512_core_bf16", True),
    ],
)
def test_bfloat16_is_for_processors_with_instructions_for_it(
    monkeypatch, tmp_path, instructions, held_back, multiplies
):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", held_back)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    assert cpu_bfloat16.multiplies_bfloat16() is multiplies
    # a torch that does not say: the names that are there in Linux's list
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    named = " ".join(name for name, there in instructions.items() if there)
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {named} sse\n")
    monkeypatch.setattr(cpu_bfloat16, "CPU_INFO", tmp_path / "cpuinfo")
    assert cpu_bfloat16.multiplies_bfloat16() is multiplies
    monkeypatch.setattr(cpu_bfloat16, "CPU_INFO", tmp_path / "none")
    assert not cpu_bfloat16.multiplies_bfloat16()


def test_encoders_and_autoencoder_on_the_cpu_compute_in_float32(machine):
    machine("cuda")
    chosen = Placement.choose(clip_on_cpu=True, vae_on_cpu=True, offload=True)
    assert (chosen.text_device.type, chosen.vae_device.type) == ("cpu", "cpu")
    assert chosen.dtype_on(chosen.text_device) == torch.float32
    assert chosen.dtype_on(chosen.device) == torch.bfloat16
    assert chosen.storage_of(Model.FLUX).type == "cpu"
    assert Placement.choose().storage_of(Model.FLUX).type == "cuda"


def test_devices_that_are_not_there_are_refused(machine):
    machine("cuda")
    assert Placement.choose("cuda:1").device.index == 1
    for name, message in (
        ("cuda:2", "there are 2 cuda devices"),
        ("mps", "usable: cuda0, cuda1, cpu"),
        ("cuda:x", "expected auto"),
        ("cpu:1", "1 cpu"),
    ):
        with pytest.raises((PlacementError, RequestError), match=message):
            Placement.choose(name)


# ----------------------------------------------------------------------------- sd-cli's assignments


@pytest.mark.parametrize(
    ("flags", "where"),
    [
        ({}, "cuda cuda cuda"),
        ({"backend": "cpu"}, "cpu cpu cpu"),
        ({"backend": "diffusion=cuda0,te=cpu,vae=cpu"}, "cuda:0 cpu cpu"),
        ({"backend": "te=cpu"}, "cuda cpu cuda"),
        ({"backend": "all=cuda1,vae=cpu"}, "cuda:1 cuda:1 cpu"),
        ({"backend": "vae=cpu,*=cuda1"}, "cuda:1 cuda:1 cpu"),  # the module wins, in any order
        ({"backend": "te=cpu,te=cuda1"}, "cuda cuda:1 cuda"),  # the last one wins
        ({"backend": "CLIP=CPU , unet = CUDA1"}, "cuda:1 cpu cuda"),
        ({"backend": "text-encoder=cpu,first_stage=cpu"}, "cuda cpu cpu"),
        # models that do not exist here
        ({"backend": "controlnet=vulkan3,upscaler=cpu"}, "cuda cuda cuda"),
        ({"device": "cpu", "backend": "diffusion=gpu"}, "cuda cpu cpu"),
        ({"device": "cpu", "backend": "cuda1"}, "cuda:1 cuda:1 cuda:1"),
        ({"clip_on_cpu": True, "vae_on_cpu": True}, "cuda cpu cpu"),
        # te=cpu is a module's, cuda1 is not
        ({"clip_on_cpu": True, "backend": "cuda1"}, "cuda:1 cpu cuda:1"),
        ({"clip_on_cpu": True, "backend": "t5=cuda1"}, "cuda cuda:1 cuda"),
        ({"backend": ""}, "cuda cuda cuda"),
    ],
)
def test_backend_places_modules_as_sd_cli_does(machine, flags, where):
    machine("cuda")
    chosen = Placement.choose(**flags)
    assert [
        str(device) for device in (chosen.device, chosen.text_device, chosen.vae_device)
    ] == where.split()


@pytest.mark.parametrize(
    ("flags", "offloaded"),
    [
        ({}, set()),
        ({"offload": True}, {Model.FLUX, Model.T5}),
        ({"params_backend": "cpu"}, {Model.FLUX, Model.T5}),
        ({"params_backend": "diffusion=cpu"}, {Model.FLUX}),
        ({"params_backend": "diffusion=disk,te=cuda0"}, {Model.FLUX}),
        ({"offload": True, "params_backend": "te=cuda0"}, {Model.FLUX}),
        # it is there already
        ({"offload": True, "clip_on_cpu": True}, {Model.FLUX}),
        ({"offload": True, "device": "cpu"}, set()),
    ],
)
def test_params_backend_is_where_weights_wait(machine, flags, offloaded):
    machine("cuda")
    chosen = Placement.choose(**flags)
    assert chosen.offload == offloaded
    for model in (Model.FLUX, Model.T5):
        in_main_memory = model in offloaded or chosen.device_of(model).type == "cpu"
        assert (chosen.storage_of(model).type == "cpu") == in_main_memory


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"backend": "lungs=cpu"},
            "backend lungs=cpu: there is no module 'lungs'; known: diffusion, te, vae, all",
        ),
        (
            {"backend": "te=vulkan0"},
            r"backend vulkan0: not usable here \(PyTorch has no such device\); usable: cuda0, cuda1, cpu",
        ),
        ({"backend": "diffusion=cuda0&cuda1"}, "runs on one device"),
        ({"backend": "te="}, "expected MODULE=DEVICE"),
        ({"backend": "disk"}, "a model cannot run there"),
        ({"backend": "te=cuda7"}, "there are 2 cuda devices"),
        ({"backend": "te=metal"}, "backend metal: not usable here; usable: cuda0, cuda1, cpu"),
        ({"params_backend": "te=tpu"}, "params-backend tpu: expected auto"),
        ({"max_vram": "much"}, "max-vram much: expected GiB"),
        ({"max_vram": "cuda7=3"}, "max-vram cuda7: there are 2"),
        ({"max_vram": "nan"}, "expected GiB"),
        (
            {"device": "tpu"},
            "device tpu: expected auto, cuda, cuda:N, mps or cpu; usable: cuda0, cuda1, cpu",
        ),
    ],
)
def test_modules_and_devices_that_are_not_there_are_refused(machine, flags, message):
    machine("cuda")
    with pytest.raises((PlacementError, RequestError), match=message) as refusal:
        Placement.choose(**flags)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("kinds", "name", "device"),
    [
        (("cuda",), "cuda1", "cuda:1"),
        (("cuda",), "CUDA:1", "cuda:1"),
        (("cuda",), "rocm0", "cuda:0"),
        (("mps",), "Metal", "mps"),
        (("mps",), "MTL0", "mps"),
        (("mps",), "gpu", "mps"),
        (("cuda", "mps"), "default", "cuda"),
        ((), "auto", "cpu"),
        ((), "cpu0", "cpu"),
    ],
)
def test_device_names_of_both_worlds(machine, kinds, name, device):
    machine(*kinds)
    assert str(find_device(name)) == device


def test_a_processor_beside_a_card_and_a_card_beside_a_processor_have_their_own_arithmetic(machine):
    machine("cuda")
    chosen = Placement.choose("cpu", backend="te=cuda0")
    assert chosen.dtype_on(chosen.device) == torch.float32
    assert chosen.dtype_on(chosen.text_device) == torch.bfloat16
    assert Placement.choose("cuda", "float16").dtype_on(torch.device("cuda", 1)) == torch.float16


@pytest.mark.parametrize(
    ("text", "free", "usable"),
    [
        (None, 20, 20),
        ("0", 20, 20),  # sd-cli: no limit
        ("6", 20, 6),
        (6.0, 20, 6),
        ("30", 20, 20),  # more than there is
        ("-2", 20, 18),
        ("-30", 20, 0),
        ("cuda0=6,cuda1=2", 20, 6),
        ("cuda1=2", 20, 20),
        ("cuda0=6,8", 20, 6),
    ],
)
def test_max_vram_limits_a_device(machine, text, free, usable):
    machine("cuda")
    chosen = Placement.choose(max_vram=text)
    assert chosen.usable(torch.device("cuda"), free * 2**30) == usable * 2**30
    # main memory is not a device's
    assert chosen.usable(torch.device("cpu"), free * 2**30) == free * 2**30
    assert chosen.streams(Model.FLUX) == ((text is not None and usable < free) or text == "30")


def test_assignments_as_text():
    assert parse_assignment("backend", " te = cpu , cuda0 ,, ") == {"te": "cpu", "": "cuda0"}
    assert parse_assignment("backend", None) == {}
    assert parse_budgets("") == {}
    assert parse_budgets("cpu=3,1.5") == {"cpu": 3.0, "": 1.5}


def test_devices_are_listed_under_sd_clis_names(machine, monkeypatch):
    machine("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Card {index}")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7 + (device.index or 0), 100))
    assert list_devices() == ["cuda0\tCard 0", "cuda1\tCard 1", "cpu\tprocessor"]
    free = available_on([torch.device("cuda"), torch.device("cuda", 1), torch.device("cpu")])
    assert (free["cuda:0"], free["cuda:1"], set(free)) == (7, 8, {"cpu", "cuda:0", "cuda:1"})
    assert device_name(torch.device("cuda")) == "cuda:0"
    machine("mps")
    assert list_devices() == ["metal\tApple GPU", "cpu\tprocessor"]


def test_memory_is_what_the_container_may_still_take(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "CGROUP", tmp_path)
    monkeypatch.setattr(devices.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
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

    def decode(self, latents):
        return latents[:, :3]


def test_pixels_are_rounded_to_the_nearest_and_clamped():
    wanted = torch.tensor([-1.5, -1.0, -1 + 1.4 / 127.5, -1 + 1.6 / 127.5, 0.999, 1.0, 7.0])
    latents = ((wanted - 0.1159) * 0.3611).reshape(1, 1, 1, -1).expand(1, 16, 1, -1)
    pixels = decode(Canvas(), latents)
    assert pixels.dtype == np.uint8
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 2, 255, 255, 255]
    with pytest.raises(CheckpointError, match="NaN"):
        decode(Canvas(), latents * float("nan"))


def test_an_autoencoder_with_a_prefix_is_the_same(micro, tmp_path):
    save_file(
        {f"vae.{name}": value for name, value in load_file(micro / "ae.safetensors").items()},
        tmp_path / "ae.safetensors",
    )
    plain, prefixed = (
        load_vae(read_header(path), torch.float32)
        for path in (micro / "ae.safetensors", tmp_path / "ae.safetensors")
    )
    latents = make_noise(0, 32, 32, "cpu")
    assert np.array_equal(decode(plain, latents), decode(prefixed, latents))
