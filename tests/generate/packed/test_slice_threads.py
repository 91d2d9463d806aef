"""Slices of a weight on several threads: the same numbers, errors that arrive, life after a
fork.
"""

from __future__ import annotations

import multiprocessing
import threading

import gguf
import pytest
import torch

from pulid_generate.packed import ggml_blocks, slice_threads
from pulid_generate.packed.ggml import QuantizedWeight
from pulid_generate.packed.workspace import Workspace


@pytest.fixture
def two_threads(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    # so that a small matrix has many slices
    monkeypatch.setattr(ggml_blocks, "CPU_NUMBERS_AT_ONCE", 1 << 12)
    yield
    torch.set_num_threads(before)


def weight() -> QuantizedWeight:
    torch.manual_seed(0)
    data = torch.randint(0, 256, (51, 4 * 144), dtype=torch.uint8)
    # scales that are numbers
    data.view(51, 4, 144)[:, :, 1] &= 0x3B
    data.view(51, 4, 144)[:, :, 3] &= 0x3B
    return QuantizedWeight(data, gguf.GGMLQuantizationType.Q4_K)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_numbers_are_those_of_one_thread(two_threads, dtype, monkeypatch):
    seen = set()
    fill = ggml_blocks.fill

    def watched(*arguments):
        seen.add((threading.current_thread().name, torch.get_num_threads()))
        fill(*arguments)

    monkeypatch.setattr(ggml_blocks, "fill", watched)
    with torch.inference_mode():
        spread = weight().dequantize(dtype, Workspace()).clone()
    assert all(name.startswith("widening") and threads == 1 for name, threads in seen)
    assert torch.get_num_threads() == 2
    seen.clear()
    torch.set_num_threads(1)
    alone = weight().dequantize(dtype)
    assert seen == {(threading.current_thread().name, 1)}
    assert torch.equal(spread, alone)


def test_a_thread_that_starts_later_has_torchs_number(two_threads):
    weight().dequantize(torch.float32)
    told = []
    later = threading.Thread(target=lambda: told.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert told == [2]


def test_an_error_arrives(two_threads):
    def work(number, _workspace):
        if number == 3:
            raise ValueError("three")

    with pytest.raises(ValueError, match="three"):
        slice_threads.for_each(work, range(5))


def test_where_no_thread_can_start_nothing_waits(two_threads, monkeypatch):
    monkeypatch.setattr(slice_threads, "_pool", None)
    starts = threading.Thread.start

    def start(thread):
        if thread.name.endswith("_1"):
            raise RuntimeError("can't start new thread")
        starts(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start"):
        slice_threads.for_each(lambda *_: None, range(5))
    monkeypatch.setattr(threading.Thread, "start", starts)
    slice_threads.for_each(lambda *_: None, range(5))


def _after_a_fork(queue) -> None:
    seen = []
    slice_threads.for_each(lambda number, _: seen.append(number), range(4))
    queue.put(sorted(seen))


def test_a_fork_starts_threads_of_its_own(two_threads):
    slice_threads.for_each(lambda *_: None, range(4))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_after_a_fork, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == [0, 1, 2, 3]
    child.join()
