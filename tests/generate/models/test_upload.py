"""From mapped files to a GPU: the same bytes through small buffers, however late a copy happens."""

from __future__ import annotations

from contextlib import closing

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import save_file
from support.models.flux_files import write_gguf

from pulid_extract.shared.model_files import read_header
from pulid_generate.models import tensor_files, upload
from pulid_generate.models.tensor_files import read_tensors
from pulid_generate.models.upload import Upload, upload_to

CPU = torch.device("cpu")


class LateCopies:
    """A card at its worst: a copy happens when it is waited for, and reads its buffer then."""

    def __init__(self):
        self.pinned_bytes = self.copied = 0
        self.open: list[tuple] = []

    def pinned(self, size):
        self.pinned_bytes += size
        return torch.empty(size, dtype=torch.uint8)

    def copy(self, place, staged, after):
        assert after == "computed"
        self.copied += staged.nbytes
        event = (place, staged)
        self.open.append(event)
        return event

    def computed(self):
        return "computed"

    def hold_computation(self, event):
        self.finish(event)

    def finish(self, event):
        while any(event is one for one in self.open):
            place, staged = self.open.pop(0)
            place.copy_(staged)


@pytest.fixture
def copies(monkeypatch):
    """As if tensors had to go to a card, by buffers of 1,000 bytes."""
    made = LateCopies()
    monkeypatch.setattr(upload, "SLICE", 1000)
    monkeypatch.setattr(upload, "SMALLEST", 100)
    monkeypatch.setattr(tensor_files, "upload_to", lambda device: _given(Upload(device, made)))
    return made


def _given(way):
    way.close = way.finish
    return closing(way)


def bits(tensor):
    return tensor.flatten().view(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.uint8])
@pytest.mark.parametrize("shape", [(), (7,), (250,), (33, 77), (3, 5, 200)])
def test_the_same_numbers(copies, dtype, shape):
    way = Upload(CPU, copies)
    given = (100 * torch.rand(shape)).to(dtype)
    assert torch.equal(bits(way.move(given)), bits(given))
    wide = torch.float32 if dtype == torch.uint8 else torch.bfloat16
    moved = way.move(given, wide)
    assert moved.dtype == wide
    assert torch.equal(bits(moved), bits(given.to(wide)))
    way.finish()
    assert not copies.open
    # two buffers, whatever went through them
    assert copies.pinned_bytes == 2000


def test_a_buffer_that_is_filled_too_early_would_show(copies, monkeypatch):
    monkeypatch.setattr(copies, "finish", lambda event: None)
    monkeypatch.setattr(copies, "hold_computation", lambda event: LateCopies.finish(copies, event))
    given = torch.rand(2000)
    assert not torch.equal(Upload(CPU, copies).move(given), given)


def test_files_of_every_kind(copies, tmp_path):
    """Read by that way: the tensors that are in the file."""
    torch.manual_seed(0)
    plain = {"x": torch.randn(300), "matrix": torch.randn(64, 128), "half": torch.randn(40, 40)}
    plain["half"] = plain["half"].half()
    save_file(plain, tmp_path / "plain.safetensors")
    header = read_header(tmp_path / "plain.safetensors")
    for dtype in (None, torch.bfloat16):
        found = dict(read_tensors(header, ("x",), "cpu", dtype))
        for name, tensor in plain.items():
            assert torch.equal(bits(found[name]), bits(tensor.to(dtype or tensor.dtype)))
    assert copies.copied == 2 * sum(tensor.nbytes for tensor in plain.values())
    assert not copies.open


def test_packed_weights_go_as_they_are(copies, tmp_path):
    numbers = np.random.default_rng(0).standard_normal((96, 256)).astype(np.float32)
    kinds = {"q.weight": Kind.Q8_0, "x": Kind.F32}
    path = write_gguf(tmp_path / "x.gguf", {name: (numbers, kind) for name, kind in kinds.items()})
    found = dict(read_tensors(read_header(path), ("x",), "cpu", torch.bfloat16, packed=True))
    assert torch.equal(found["q.weight"].data, torch.from_numpy(gguf.quantize(numbers, Kind.Q8_0)))
    assert torch.equal(found["x"], torch.from_numpy(numbers).bfloat16())
    assert copies.copied == 96 * 272 + numbers.nbytes


def test_without_memory_to_pin_tensors_go_in_one_piece(monkeypatch):
    def refused(device):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(upload, "CudaCopies", refused)
    way = upload._upload(torch.device("cuda"))
    assert way._copies is None
    with upload_to(CPU) as plain:
        tensor = torch.ones(3)
        assert plain.move(tensor) is tensor
