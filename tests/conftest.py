"""What every test module shares: the golden tensors, seeded inputs, and a world without network or a user's caches."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden"
ROOT = TESTS.parent
sys.path[:0] = [str(GOLDEN), str(ROOT / "scripts")]

os.environ["HF_HUB_OFFLINE"] = "1"  # before any library reads it; tests of downloads clear it for a child process
os.environ.pop("PULID_MODELS_DIR", None)


@pytest.fixture(scope="session")
def golden():
    """golden("flux") -> {name: float32 array} of tests/golden/flux.safetensors; see tests/golden/README.md."""
    from safetensors.numpy import load_file

    return lambda name: load_file(GOLDEN / f"{name}.safetensors")


@pytest.fixture(scope="session")
def golden_shapes():
    """golden_shapes("flux") -> the parsed tests/golden/flux_shapes.json."""
    return lambda name: json.loads((GOLDEN / f"{name}_shapes.json").read_text())


def relative(ours, truth) -> float:
    """Frobenius distance relative to the truth, computed in float64."""
    ours, truth = np.asarray(ours, np.float64), np.asarray(truth, np.float64)
    assert ours.shape == truth.shape
    return float(np.linalg.norm(ours - truth) / np.linalg.norm(truth))
