"""scripts/bench/gpu.py on a small model and a CPU: it runs, and it fails on wrong results."""

from __future__ import annotations

import re
import sys

import pytest
import torch
from bench import gpu, gpu_step
from torch import nn


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments, "--small", "--device", "cpu"])
    gpu.main()


def test_a_step_in_every_form(monkeypatch, capsys):
    run(monkeypatch, "step")
    told = capsys.readouterr().out
    for form in gpu_step.FORMS:
        assert f"| {form} | 64x64 | eager |" in told
    assert "velocities are 0.0" in told


def test_wrong_results_are_an_exit_code(monkeypatch, capsys):
    class Forgetful(nn.Module):
        """Predicts NaN, whoever is added."""

        def __init__(self, model: nn.Module):
            super().__init__()
            self.transformer_blocks = model.transformer_blocks
            self.single_transformer_blocks = model.single_transformer_blocks

        def forward(self, hidden_states, **_):
            return (torch.full_like(hidden_states, float("nan")),)

    build = gpu_step.FORMS["bfloat16"]
    monkeypatch.setattr(gpu_step, "FORMS", {"bfloat16": lambda *given: Forgetful(build(*given))})
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "step")
    assert "gpu: wrong: bfloat16, 64: NaN or infinite numbers" in str(stop.value)


@pytest.mark.slow
def test_the_whole_command(monkeypatch, capsys, tmp_path):
    run(monkeypatch, "command", "--dir", str(tmp_path))
    told = capsys.readouterr().out
    assert "| again, files and kernels cached |" in told
    assert re.search(r"^A = B, A != C .*: PASSED", told, re.MULTILINE)


def test_parts_that_are_not_there(monkeypatch):
    with pytest.raises(SystemExit, match="unknown part picture; expected some of kernels, step"):
        run(monkeypatch, "picture")
    with pytest.raises(SystemExit, match="want a GPU"):
        run(monkeypatch, "kernels")
