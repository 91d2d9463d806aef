"""Finished pictures through a network that enlarges: its files, its tiles, its refusals, and the
command that uses it. The network is spandrel's own ESRGAN, tiny and seeded.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.models.micro_flags import micro_files
from support.models.upscaler_files import tiny_upscaler

from pulid_extract.shared import errors
from pulid_extract.shared.embedding_file import read_embedding
from pulid_generate import GenerationRequest, Pipeline, Placement
from pulid_generate.errors import (
    CheckpointError,
    InputError,
    PackageError,
    PlacementError,
    RequestError,
)
from pulid_generate.models.upscaler import load_upscaler
from pulid_generate.pictures.description import parse_description
from pulid_generate.pictures.picture import Picture
from pulid_generate.pictures.saving import SavedPicture
from pulid_generate.pipeline import planning
from pulid_generate.request.job import StartPicture
from pulid_generate.request.passes.hires import HiresSettings, find_model
from pulid_generate.request.passes.upscaling import UpscaleSettings

pytest.importorskip("spandrel", reason="the extra [upscale] is not installed")


@pytest.fixture(scope="module")
def network():
    return tiny_upscaler()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, network) -> Path:
    made = tmp_path_factory.mktemp("upscalers")
    state = network.state_dict()
    save_file(state, made / "tiny.safetensors")
    torch.save(state, made / "tiny.pth")
    torch.save({"params_ema": state}, made / "nested.pth")
    return made


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(3).integers(0, 256, (96, 96, 3), np.uint8)


def enlarged(path: Path, pixels, **settings):
    upscaler = load_upscaler(UpscaleSettings(path=path, **settings))
    return upscaler.enlarged(pixels, torch.device("cpu"))


def by_hand(network, pixels):
    with torch.inference_mode():
        picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        larger = network(picture).clamp(0, 1)[0].permute(1, 2, 0)
    return (larger * 255).round().to(torch.uint8).numpy()


@pytest.mark.parametrize("name", ["tiny.safetensors", "tiny.pth", "nested.pth"])
def test_every_file_is_the_network_that_it_holds(folder, network, pixels, name):
    ours, wanted = enlarged(folder / name, pixels), by_hand(network, pixels)
    assert ours.shape == (192, 192, 3)
    assert np.ptp(ours) > 8
    assert (ours == wanted).all()


def test_tiles_are_the_whole_away_from_seams(folder, network, pixels):
    ours = enlarged(folder / "tiny.pth", pixels, tile=64).astype(int)
    difference = np.abs(ours - by_hand(network, pixels))
    # the network sees less than 24 pixels around; the first tile alone gives the first 32
    assert difference[:64, :64].max() <= 1
    assert difference[-64:, -64:].max() <= 1
    # smaller than what it sees: here the seams tell
    seams = np.abs(enlarged(folder / "tiny.pth", pixels, tile=32).astype(int) - ours)
    assert seams.max() > 0
    assert difference.mean() < 1


def test_repeats_go_over_what_came_out(folder, pixels):
    small = pixels[:24, :32]
    twice = enlarged(folder / "tiny.pth", small, repeats=2)
    assert twice.shape == (96, 128, 3)
    once = enlarged(folder / "tiny.pth", small)
    again = enlarged(folder / "tiny.pth", once)
    # by hand there is a rounding in between
    assert np.abs(twice.astype(int) - again).max() <= 2


class Code:
    def __reduce__(self):
        return print, ("this must not run",)


def test_files_that_are_none_are_refused_in_one_line(folder, network, capsys):
    def refused(error, name, told, make=None):
        path = folder / name
        if make is not None:
            make(path)
        with pytest.raises(error) as refusal:
            load_upscaler(UpscaleSettings(path=path))
        assert told in str(refusal.value)
        assert str(path) in str(refusal.value)
        assert "\n" not in str(refusal.value)

    refused(InputError, "gone.pth", "cannot be read (No such file")
    refused(InputError, "gone.safetensors", "cannot be read (No such file")
    refused(InputError, "a.gguf", "expected a .safetensors or .pth file")
    refused(CheckpointError, "bytes.pth", "holds no tensors", lambda p: p.write_bytes(b"no"))
    refused(
        CheckpointError, "bytes.safetensors", "holds no tensors", lambda p: p.write_bytes(b"no")
    )
    refused(CheckpointError, "code.pth", "is not run", lambda p: torch.save(Code(), p))
    refused(CheckpointError, "list.pth", "no tensors by name", lambda p: torch.save([1], p))
    other = {"double_blocks.0.weight": torch.ones(2, 2)}
    refused(CheckpointError, "flux.safetensors", "no upscaler", lambda p: save_file(other, p))
    state = network.state_dict()
    grey = dict(state) | {"model.0.weight": state["model.0.weight"][:, :1].contiguous()}
    refused(CheckpointError, "grey.pth", "from 1 to 3 channels", lambda p: torch.save(grey, p))
    part = {name: state[name] for name in list(state)[:-4]}
    refused(CheckpointError, "part.pth", "no upscaler", lambda p: torch.save(part, p))
    assert "this must not run" not in capsys.readouterr().out


def test_without_spandrel_one_line_says_what_to_install(folder, monkeypatch):
    monkeypatch.setattr(errors.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PackageError, match=r"spandrel, .*pulid-flux-toolkit\[upscale\]"):
        load_upscaler(UpscaleSettings(path=folder / "tiny.pth"))


def test_it_is_imported_only_when_used():
    script = "import pulid_generate.models.upscaler, sys; assert 'spandrel' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"tile": 8}, {"repeats": 9}])
def test_values_that_cannot_be(wrong):
    with pytest.raises(RequestError, match=r"^upscale-"):
        UpscaleSettings(path=Path("x.pth"), **wrong)


def test_a_pipelines_pictures_are_enlarged_last(folder, micro, network, tmp_path, monkeypatch):
    files = micro_files(micro)
    request = GenerationRequest("a cat", width=48, height=32, steps=1)
    settings = UpscaleSettings(path=folder / "tiny.safetensors")

    def drawn(upscale) -> tuple[Pipeline, Picture]:
        pipeline = Pipeline(files, Placement.choose("cpu", "float32"), upscale=upscale)
        return pipeline, next(pipeline.draw([pipeline.job(request)]))

    _, plain = drawn(None)
    pipeline, larger = drawn(settings)
    assert (larger.pixels == by_hand(network, plain.pixels)).all()
    assert larger.parameters == pipeline.parameters(larger.job)
    facts = parse_description(larger.parameters)["upscale"]
    assert (facts["model"], facts["scale"], facts["repeats"]) == ("tiny.safetensors", 2, 1)
    assert len(facts["sha256"]) == 64
    assert "upscale" not in parse_description(plain.parameters)
    saved = SavedPicture.of(larger.job, tmp_path, larger.encode("PNG"), 0.0, "float32")
    assert '"width": 96, "height": 64' in json.dumps(saved.as_dict())
    monkeypatch.setattr(planning, "available_on", lambda devices: {"cpu": 10**11})
    with pipeline.engine() as engine:
        assert engine.planner.available["cpu"] == 10**11 - pipeline.upscaler.bytes
        huge = replace(request, width=8192)
        with pytest.raises(
            RequestError, match=r"upscale-model tiny\.safetensors: 8192x32, 2 times"
        ):
            engine.expect(pipeline.job(huge))


def test_a_larger_pass_may_enlarge_by_it(folder, micro, network, person, monkeypatch, tmp_path):
    """By hand: decoded, through the network, to the size that is wanted, encoded, redrawn."""
    pipeline, me = Pipeline(micro_files(micro), Placement.choose("cpu")), read_embedding(person)
    found = find_model("tiny", folder)
    hires = HiresSettings(upscaler="tiny", model=found, scale=3.0, sigmas=(0.6, 0.3, 0.0))
    small = GenerationRequest("a cat", width=48, height=32, steps=1)
    job = pipeline.job(replace(small, hires=hires), me)
    ours, first = pipeline.draw([job, pipeline.job(small, me)])
    doubled = Image.fromarray(by_hand(network, first.pixels))
    start = StartPicture(np.array(doubled.resize((144, 96), Image.Resampling.LANCZOS)))
    [wanted] = pipeline.draw([replace(job.larger, start=start)])
    assert (ours.pixels == wanted.pixels).all()
    enlarged = Image.fromarray(first.pixels).resize((144, 96), Image.Resampling.LANCZOS)
    [other] = pipeline.draw([replace(job.larger, start=StartPicture(np.array(enlarged)))])
    assert (ours.pixels != other.pixels).any()
    facts = parse_description(ours.parameters)["hires"]
    sha256 = hashlib.sha256(found.read_bytes()).hexdigest()
    assert (facts["upscaler"], facts["upscaler_sha256"]) == ("tiny", sha256)
    # its memory is set aside once, and a file that is none is known before anything is drawn
    monkeypatch.setattr(planning, "available_on", lambda devices: {"cpu": 10**10})
    with pipeline.engine() as engine:
        for _ in range(2):
            engine.expect(job)
        assert engine.planner.available["cpu"] == 10**10 - load_upscaler(hires.network()).bytes
        # other tiles are no other network, and what does not fit leaves no trace
        other = replace(hires, tile=160)
        engine.expect(pipeline.job(replace(small, hires=other), me))
        free = 10**10 - load_upscaler(other.network()).bytes
        assert engine.planner.available["cpu"] == free
        loaded = engine._larger._networks
        assert loaded[other.network()].network is loaded[hires.network()].network
        huge = pipeline.job(replace(small, hires=replace(hires, tile=4096)), me)
        for _ in range(2):
            with pytest.raises(PlacementError):
                engine.expect(huge)
        assert engine.planner.available["cpu"] == free
        engine.expect(job)
        (tmp_path / "no.pth").write_bytes(b"no model")
        broken = replace(hires, model=tmp_path / "no.pth")
        with pytest.raises(CheckpointError, match=r"no\.pth: holds no tensors"):
            engine.expect(pipeline.job(replace(small, hires=broken)))
