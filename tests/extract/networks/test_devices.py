"""Where networks run: what a device's name means, exact arithmetic, memory that runs out, and
onnxruntime's CUDA, all without a card.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.distances import relative
from support.models.portrait_models import models_folder
from support.pictures.coloured_faces import ALONE, GROUP, picture

from pulid_extract.batch.ray_worker import WorkerSetup, open_worker
from pulid_extract.extraction.extractor import Extractor
from pulid_extract.faces.antelopev2 import Antelope
from pulid_extract.flags.batch import BatchFlags
from pulid_extract.networks import devices, onnx_runtime
from pulid_extract.networks.devices import (
    choose_arithmetic,
    choose_device,
    exact_arithmetic,
    naming_memory,
)
from pulid_extract.shared.cluster.actor import Actor, DoneReply, Place
from pulid_extract.shared.errors import InputError


@pytest.fixture
def machine(monkeypatch):
    """machine("cuda") makes torch believe that this machine has one."""

    def pretend(*kinds: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in kinds)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in kinds)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: "old card" not in kinds)
        monkeypatch.setattr(devices, "multiplies_bfloat16", lambda: "bfloat16" in kinds)

    return pretend


@pytest.mark.parametrize(
    ("kinds", "name", "chosen"),
    [
        ((), "auto", "cpu"),
        (("cuda",), "auto", "cuda"),
        (("cuda",), "cpu", "cpu"),
        # never tried there: only who names it gets it
        (("mps",), "auto", "cpu"),
        (("mps",), "mps", "mps"),
    ],
)
def test_a_device_by_its_name(machine, kinds, name, chosen):
    machine(*kinds)
    assert choose_device(name) == chosen


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_one_line(machine, name):
    machine()
    with pytest.raises(InputError, match=rf"--device {name}: not on this machine \(here: cpu\)"):
        choose_device(name)


def test_mps_says_that_it_was_never_tried(machine):
    machine("mps")
    said = []
    extractor = Extractor({}, "mps", log=said.append)
    assert (extractor.device, extractor.face_device) == ("mps", "cpu")
    assert len(said) == 1
    assert "never tried" in said[0]


@pytest.mark.parametrize(
    ("kinds", "device", "fast", "chosen", "lines"),
    [
        (("bfloat16",), "cpu", False, torch.float32, 0),
        (("bfloat16",), "cpu", True, torch.bfloat16, 0),
        ((), "cpu", True, torch.float32, 1),
        (("cuda",), "cuda", True, torch.bfloat16, 0),
        (("cuda", "old card"), "cuda", True, torch.float32, 1),
        (("mps",), "mps", True, torch.float32, 1),
    ],
)
def test_fast_is_bfloat16_where_it_is_multiplied(machine, kinds, device, fast, chosen, lines):
    machine(*kinds)
    said = []
    assert choose_arithmetic(device, fast, said.append) == chosen
    assert len(said) == lines
    assert all(line.startswith("--fast changes nothing") for line in said)


def test_arithmetic_is_exact_within_and_as_before_after():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with exact_arithmetic():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cuda.matmul.allow_tf32
            assert torch.backends.cudnn.deterministic
        assert torch.get_float32_matmul_precision() == "medium"
        assert not torch.backends.cudnn.deterministic
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    ],
)
def test_memory_that_runs_out_is_one_line(error):
    said = r"EVA-CLIP: out of memory on cuda; .*--device cpu"
    with pytest.raises(InputError, match=said), naming_memory("EVA-CLIP", "cuda"):
        raise error
    with pytest.raises(RuntimeError, match="something else"), naming_memory("EVA-CLIP", "cuda"):
        raise RuntimeError("something else")


def test_memory_that_runs_out_in_the_middle(monkeypatch):
    extractor = Extractor.load(models_dir=models_folder(), device="cpu")
    crop = extractor.crop(picture(*ALONE))

    def too_large(tower, pixels):
        raise torch.OutOfMemoryError("CUDA out of memory")

    from pulid_extract.networks import eva_clip

    monkeypatch.setattr(eva_clip, "encode_face", too_large)
    with pytest.raises(InputError, match="EVA-CLIP: out of memory on cpu"):
        extractor.fuse([crop])


def test_several_faces_in_one_pass_on_a_card(monkeypatch):
    """The grouping, which a CPU takes no part in, and that a face keeps its features in a group."""
    from pulid_extract.extraction import extractor as module

    extractor = Extractor.load(models_dir=models_folder(), device="cpu")
    one = extractor.crop(picture(*ALONE))
    other = extractor.crop(picture(*GROUP))
    alone = extractor.fuse([one, other, one]).tokens
    passes = []
    of_each = Extractor._features

    def counted(self, crops):
        passes.append(len(crops))
        return of_each(self, crops)

    monkeypatch.setattr(Extractor, "_features", counted)
    monkeypatch.setattr(module, "FACES_AT_ONCE", {"cpu": 2})
    together = extractor.fuse([one, other, one]).tokens
    assert passes == [2, 1]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert not np.allclose(extractor.fuse([other, one, one]).tokens, alone, rtol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a card")
def test_a_card_gives_the_cpus_tokens():
    tokens = {}
    for device in ("cpu", "cuda"):
        extractor = Extractor.load(models_dir=models_folder(), device=device)
        # these answer from memory what they were asked before: conftest.py
        for network in (extractor._retinaface, extractor._bisenet):
            vars(network).pop("forward", None)
        tokens[device] = extractor.extract(picture(*ALONE)).tokens
        # and the same ones twice
        again = extractor.extract(picture(*ALONE)).tokens
        np.testing.assert_array_equal(again, tokens[device])
    assert relative(tokens["cuda"], tokens["cpu"]) <= 1e-3


# ------------------------------------------------------------------------------------- onnxruntime


class Runtime(SimpleNamespace):
    """What onnxruntime says of its providers."""

    def get_available_providers(self):
        return self.providers


@pytest.mark.parametrize(
    ("there", "device", "first", "said"),
    [
        (("CUDAExecutionProvider", "CPUExecutionProvider"), "cuda", "CUDA", "run on cuda"),
        (("CUDAExecutionProvider", "CPUExecutionProvider"), "cpu", "CPU", "on the CPU"),
        (("CPUExecutionProvider",), "cuda", "CPU", "onnxruntime-gpu in its place"),
        (("CPUExecutionProvider",), "cpu", "CPU", "on the CPU"),
    ],
)
def test_onnx_networks_go_to_the_card_where_onnxruntime_can(
    monkeypatch, there, device, first, said
):
    monkeypatch.setattr(onnx_runtime, "load", lambda: Runtime(providers=there))
    chosen = onnx_runtime.providers(device)
    name, options = chosen[0] if isinstance(chosen[0], tuple) else (chosen[0], {})
    assert name == f"{first}ExecutionProvider"
    assert chosen[-1] == "CPUExecutionProvider"
    # never chosen by timing, and no TF32
    assert (options.get("use_tf32") == "0") == (first == "CUDA")
    assert said in onnx_runtime.describe(device)


def test_a_provider_that_does_not_start_is_said(monkeypatch):
    """onnxruntime leaves the work to the CPU then, without an error."""
    cpu = "CPUExecutionProvider"
    monkeypatch.setattr(onnx_runtime, "providers", lambda device: [cpu, cpu])
    said = []
    faces = Antelope(models_folder() / "antelopev2", "cuda", said.append)
    assert len(faces.detect(np.ascontiguousarray(picture(*ALONE)[..., ::-1]))) == 1
    line = "scrfd_10g_bnkps.onnx runs on the CPU: onnxruntime's CUDA provider does not start"
    assert said == [line]
    # also by `batch`, which says nothing of a row
    extractor = Extractor.load(models_dir=models_folder(), device="cpu", log=said.append)
    said.clear()
    extractor.log = lambda line: None
    extractor.detect(picture(*ALONE))
    assert said == [line]


def test_a_ray_worker_tells_it_with_its_next_answer(monkeypatch):
    cpu = "CPUExecutionProvider"
    monkeypatch.setattr(onnx_runtime, "providers", lambda device: [cpu, cpu])
    flags = BatchFlags(
        rows="rows.csv", out_dir="out", device="cpu", models_dir=str(models_folder())
    )
    setup = WorkerSetup(flags, "", frozenset({"antelopev2"}))
    place = Place("node", "host", 0, torch.get_num_threads(), False, 1)
    actor = Actor(partial(open_worker, setup), place)
    assert actor.opened().notes == ()
    actor._work.networks.extractor.detect(picture(*ALONE))
    line = "host: scrfd_10g_bnkps.onnx runs on the CPU: onnxruntime's CUDA provider does not start"
    assert actor.work([]) == DoneReply([], (line,))
    assert actor.work([]) == DoneReply([])
