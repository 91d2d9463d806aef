"""Where kernels run, and the reasons why they do not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch
from support.import_rules import Tree, imported_names
from support.paths import ROOT

from pulid_generate.kernels import availability, trials
from pulid_generate.kernels.availability import available


def test_on_a_cpu():
    assert available("cpu") == "the device is cpu, and the kernels are for NVIDIA GPUs"


def test_without_triton(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert available("cuda") == "the package triton is not installed"


def test_on_an_amd_gpu(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert available("cuda") == "the kernels are untested on AMD GPUs"


def test_in_the_interpreter(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "TRITON_INTERPRET is set" in available("cuda")


def test_on_an_old_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    reason = availability._reason_against.__wrapped__(0)
    assert reason == "the GPU has compute capability 7.5, and the kernels need 8.0"


def test_of_two_cards_the_one_that_was_asked_for(monkeypatch):
    """By whatever name: tensors on "cuda" say "cuda:0"."""
    monkeypatch.setattr(availability, "available", lambda device: None)
    monkeypatch.setattr(availability, "_served", set())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    availability.ask(torch.device("cuda"))
    assert availability.serves(torch.device("cuda:1"))
    assert not availability.serves(torch.device("cuda:0"))
    assert not availability.serves(torch.device("cpu"))
    availability.ask(torch.device("cuda:0"))
    assert availability.serves(torch.device("cuda:0"))


def test_an_old_card_beside_a_new_one(monkeypatch):
    """Each has its own answer, and a note says which card does without."""
    reasons = {0: "the GPU has compute capability 7.5, and the kernels need 8.0", 1: None}
    monkeypatch.setattr(availability, "_served", set())
    monkeypatch.setattr(availability, "_reason_against", reasons.get)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(trials, "_notes", {})
    assert availability.ask(torch.device("cuda:1")) is None
    assert "7.5" in str(availability.ask(torch.device("cuda:0")))
    assert availability.serves(torch.device("cuda:1"))
    assert not availability.serves(torch.device("cuda:0"))
    [note] = trials.take_notes()
    assert "torch's own operations run instead, because the GPU has compute capability 7.5" in note


def test_no_visible_device(monkeypatch):
    """CUDA_VISIBLE_DEVICES that names none: torch has CUDA, and finds no card."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert available("cuda") == "torch finds no NVIDIA GPU"


def test_a_kernel_that_fails_is_a_reason(monkeypatch):
    pytest.importorskip("triton")
    from pulid_generate.kernels import ggml

    def fail(*arguments):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(ggml, "widen_ggml", fail)
    found = availability._failure_of_a_kernel(torch.device("cpu"))
    assert found == "Triton cannot run a kernel here: Failed to find C compiler."


def test_triton_is_imported_nowhere_else():
    folders = set()
    for module, parsed in Tree(ROOT).parsed.items():
        if any(name.split(".")[0] == "triton" for _, name in imported_names(parsed)):
            folders.add(module.rpartition(".")[0])
    assert folders == {"pulid_generate.kernels"}


def test_importing_needs_no_triton_and_loads_none():
    """In a process of its own, in which triton cannot be imported."""
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "from pulid_generate.kernels.availability import available\n"
        "print(available('cpu'))\n"
        "print(available('cuda'))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[1] == "the package triton is not installed"
    assert len(run.stdout.splitlines()) == 2
