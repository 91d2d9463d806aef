"""Slices of a weight by several threads at once, each of which runs torch's operations by itself.

torch splits every operation over its threads and waits, spinning, for the last of them. A weight is
widened in twenty passes over slices that fit a cache: split that way, their waiting takes three
times the processor time of the work, and twenty times the wall where cores are shared. Knows no
weight.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TypeVar

import torch

from pulid_generate.packed.workspace import Workspace

Slice = TypeVar("Slice")

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_threads = 0
_own = threading.local()


def for_each(work: Callable[[Slice, Workspace], None], slices: Iterable[Slice]) -> None:
    """work(slice, workspace) for each of the slices, in no order, on as many threads as torch uses
    here. The workspace is the thread's own and lives as long. The first error is raised.
    """
    inference = torch.is_inference_mode_enabled()

    def run(one: Slice) -> None:
        # neither mode is inherited by a thread
        with torch.inference_mode() if inference else nullcontext(), torch.no_grad():
            work(one, _own.workspace)

    for _ in _threads(torch.get_num_threads()).map(run, slices):
        pass


def _threads(count: int) -> ThreadPoolExecutor:
    """A pool of so many threads, the same one as long as the number is."""
    global _pool, _pool_threads
    with _lock:
        if _pool is None or _pool_threads != count:
            if _pool is not None:
                _pool.shutdown(wait=False)
            _pool, _pool_threads = _start(count), count
        return _pool


def _start(count: int) -> ThreadPoolExecutor:
    all_there = threading.Barrier(count + 1)

    def begin() -> None:
        # OpenMP counts by thread, so that this one alone stops splitting its operations. torch
        # gives a thread the process's number when it first asks, so it asks before it is told.
        torch.get_num_threads()
        torch.set_num_threads(1)
        _own.workspace = Workspace()
        all_there.wait()

    pool = ThreadPoolExecutor(count, "widening", initializer=begin)
    try:
        for _ in range(count):
            pool.submit(int)
    except RuntimeError:
        # no more threads are allowed here: those that are waiting go
        all_there.abort()
        pool.shutdown(wait=False)
        raise
    all_there.wait()
    # torch gives what was said last to every thread that is started later
    torch.set_num_threads(count)
    return pool


def _forget() -> None:
    """Threads do not survive a fork."""
    global _lock, _pool
    _lock, _pool = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
