"""The world that the tests run in, whoever starts them and with however many workers."""

from __future__ import annotations

import os

import pytest


def test_workers_do_not_fight_for_the_cores():
    """torch reads the number once, when it is imported: conftest must have set it before."""
    import torch

    workers = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if workers is None:
        pytest.skip("there is one process")
    most = max(1, len(os.sched_getaffinity(0)) // int(workers))
    assert torch.get_num_threads() <= max(most, int(os.environ["OMP_NUM_THREADS"]))


def test_nothing_is_fetched_and_nothing_is_cached():
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ["PULID_NO_CACHE"] == "1"
    assert "PULID_MODELS_DIR" not in os.environ
