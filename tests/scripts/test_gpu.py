"""scripts/bench/gpu on a small model and a CPU: it runs, and it fails on wrong results."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch
from bench import extract
from bench.gpu import __main__ as gpu
from bench.gpu import extract as gpu_extract
from bench.gpu import stages as gpu_stages
from bench.gpu import step as gpu_step
from support.models.portrait_models import models_folder
from torch import nn

from pulid_extract.networks.retinaface import RetinaFace


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


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder for the small files, which are written once."""
    return tmp_path_factory.mktemp("small")


def test_each_stage_beside_its_plan(monkeypatch, capsys, written):
    run(monkeypatch, "stages", "--dir", str(written))
    told = capsys.readouterr().out
    for stage in ("CLIP-L", "T5", "Flux", "autoencoder"):
        assert f"| 64x64 | {stage} |" in told
    assert "the plan's numbers stand alone" in told


def test_a_stage_that_takes_more_than_its_plan_is_wrong(monkeypatch, capsys, written):
    monkeypatch.setattr(
        gpu_stages, "_take", lambda *_: gpu_stages.Taken(0.1, 0.1, 1 << 30, 1 << 40)
    )
    with pytest.raises(SystemExit, match="gpu: wrong: CLIP-L, 64: 1099511627776 bytes, the plan"):
        run(monkeypatch, "stages", "--dir", str(written))
    assert "| 1.07 |" in capsys.readouterr().out


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


def small_extraction(tmp_path):
    """(folder of networks, portrait in which they find one face)."""
    from support.pictures.coloured_faces import ALONE, picture, png

    portrait = tmp_path / "portrait.png"
    portrait.write_bytes(png(picture(*ALONE)))
    return models_folder(), portrait


def test_an_extraction_by_stages(monkeypatch, capsys, tmp_path):
    folder, portrait = small_extraction(tmp_path)
    # processes of their own would import everything anew
    monkeypatch.setattr(gpu_extract, "_child", gpu_extract.measured)
    monkeypatch.setattr(gpu_extract, "TURNS", 1)
    monkeypatch.setattr(extract, "WARM", 1)
    detect, known = RetinaFace.detect_faces, {}

    def detect_once(self, image, confidence):
        # the one network here that has its real size
        key = (image.tobytes(), confidence)
        if key not in known:
            known[key] = detect(self, image, confidence)
        return known[key]

    monkeypatch.setattr(RetinaFace, "detect_faces", detect_once)
    assert gpu_extract.measure("cpu", folder, portrait) == []
    told = capsys.readouterr().out
    [again] = [
        line for line in told.splitlines() if line.startswith("| cpu, float32, again | warm")
    ]
    # the same numbers, run after run
    assert again.endswith("| 0.0e+00 |")
    assert told.count("| cpu, --fast |") == 3


def test_tokens_that_differ_are_wrong(monkeypatch, capsys, tmp_path):
    seconds = dict.fromkeys((*gpu_extract.STAGES, "total"), 1.0)
    turns = []

    def child(way, folder, device, portrait):
        turns.append(device)
        tokens = np.ones((32, 8), np.float32)
        tokens[0, 0] += {1: 0.0, 2: 0.5, 3: np.nan}[len(turns)]
        run = gpu_extract.Run(seconds, seconds, tokens, 1.0, 1.0, 0.01 if len(turns) == 2 else 0.0)
        # as a process of its own hands it over
        return gpu_extract._read(gpu_extract._written(run))

    monkeypatch.setattr(gpu_extract, "_child", child)
    wrong = gpu_extract.measure("cuda", tmp_path, tmp_path / "portrait.png")
    assert turns == ["cpu", "cuda", "cuda"]
    assert len(wrong) == 3
    assert "extract, cuda, float32: tokens are 3.1e-02 from the CPU's" in wrong[0]
    assert "cuda, float32: among 8 faces" in wrong[1]
    assert "extract, cuda, --fast: tokens are nan" in wrong[2]
