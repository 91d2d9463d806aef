"""The files of scripts/bench/full_size.py, small: the public layouts, resumable, and never
half-written.
"""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace

import gguf
import numpy as np
import pytest
from bench import full_size
from bench.full_size_files import SMALL, Sizes, files, missing, write_complete
from seeded.q4_k import quantize_q4_k, random_q4_k
from support.distances import relative

from pulid_extract.shared.model_files import read_header
from pulid_generate.models.flux import flux_shape


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    full_size.prepare(SMALL, folder)
    return folder


def test_the_published_sizes_are_the_public_files():
    sizes = {file.name: file.nbytes for file in files(Sizes())}
    assert 6.6e9 < sizes["flux1-schnell-Q4_K.gguf"] < 6.9e9
    # without the header
    assert sizes["pulid_flux_v0.9.1.safetensors"] == pytest.approx(1_142_099_520, rel=1e-4)
    assert sizes["clip_l.safetensors"] == pytest.approx(246_144_152, rel=1e-3)
    assert sizes["ae.safetensors"] == pytest.approx(335_304_388, rel=1e-3)


def test_the_files_are_read_as_what_they_stand_for(folder):
    names = [file.name for file in files(SMALL)]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, full_size.TIMES])
    shape = flux_shape(read_header(folder / names[0]))
    assert (shape.width, shape.double, shape.single, shape.context, shape.guidance) == (
        256,
        2,
        4,
        256,
        False,
    )
    for file in files(SMALL):
        assert (folder / file.name).stat().st_size == pytest.approx(
            file.nbytes, rel=0.4, abs=40_000
        )


def test_a_second_run_writes_nothing_and_one_lost_file_comes_back_the_same(folder):
    before = {
        path.name: path.stat().st_mtime_ns
        for path in folder.iterdir()
        if path.name != full_size.TIMES
    }
    assert not list(missing(SMALL, folder))
    flux = folder / files(SMALL)[0].name
    whole = flux.read_bytes()
    flux.unlink()
    assert [file.name for file in missing(SMALL, folder)] == [flux.name]
    full_size.prepare(SMALL, folder)
    assert flux.read_bytes() == whole
    after = {
        path.name: path.stat().st_mtime_ns
        for path in folder.iterdir()
        if path.name != full_size.TIMES
    }
    assert {name for name in before if before[name] != after[name]} == {flux.name}


def test_an_interrupted_file_leaves_nothing(tmp_path):
    def stops(path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_complete(replace(files(SMALL)[0], write=stops), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 10))
    with pytest.raises(
        SystemExit, match=r"GB needed; free some, or name another folder with --dir"
    ):
        full_size.prepare(SMALL, tmp_path)
    assert not list(tmp_path.iterdir())


def test_q4_k_is_packed_as_gguf_py_unpacks_it():
    kind = gguf.GGMLQuantizationType.Q4_K
    numbers = np.random.default_rng(0).standard_normal((7, 512), np.float32)
    assert relative(gguf.dequantize(quantize_q4_k(numbers), kind), numbers) < 0.09
    assert not gguf.dequantize(quantize_q4_k(np.zeros((1, 256), np.float32)), kind).any()
    random = gguf.dequantize(random_q4_k(64, 1024, 0.02, np.random.default_rng(0)), kind)
    assert abs(random.mean()) < 0.001
    assert random.std() == pytest.approx(0.02, rel=0.02)
