"""How far two arrays or two pictures are from each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def relative(ours, truth) -> float:
    """Frobenius distance relative to the truth, computed in float64."""
    ours, truth = np.asarray(ours, np.float64), np.asarray(truth, np.float64)
    assert ours.shape == truth.shape
    return float(np.linalg.norm(ours - truth) / np.linalg.norm(truth))


def psnr(ours: Path, theirs: Path) -> float:
    a, b = (np.asarray(Image.open(path).convert("RGB"), np.float64) for path in (ours, theirs))
    assert a.shape == b.shape
    return float(10 * np.log10(255**2 / ((a - b) ** 2).mean()))


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path))
