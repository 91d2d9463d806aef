"""Edges of a picture, as ControlNets were taught to read them: Canny's method with sd-cli's
thresholds. Knows no model; imports no torch.

Source: J. Canny, A Computational Approach to Edge Detection, 1986; leejet/stable-diffusion.cpp
97d29908 src/runtime/preprocessing.hpp (the 5x5 Gaussian, both thresholds).
"""

from __future__ import annotations

import numpy as np

SIGMA, RADIUS = 1.4, 2
# Shares of the largest gradient: from which an edge counts, and from which it does where it goes on
# from one that counts. The second is 0.08 of the first, as sd-cli has it.
HIGH = 0.08
LOW = HIGH * 0.08
# of a pixel: (rows, columns)
NEIGHBOURS = np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)])


def canny_edges(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> the same: edges white on black, one pixel wide."""
    grey = pixels.astype(np.float64) @ (0.2989, 0.5870, 0.1140) / 255
    smooth = _blurred(grey)
    across, down = _gradients(smooth)
    size = np.hypot(across, down)
    if not size.max():
        return np.zeros_like(pixels)
    thin = _thinned(size / size.max(), np.arctan2(down, across))
    kept = _grown(thin >= HIGH, thin >= LOW)
    return np.repeat((kept * 255).astype(np.uint8)[..., None], 3, axis=2)


def _blurred(grey: np.ndarray) -> np.ndarray:
    reach = np.arange(-RADIUS, RADIUS + 1)
    weights = np.exp(-(reach**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    rows = sum(w * _shifted(grey, int(at), 0) for w, at in zip(weights, reach, strict=True))
    return sum(w * _shifted(rows, 0, int(at)) for w, at in zip(weights, reach, strict=True))


def _gradients(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sobel's, across and down."""
    smooth_rows = _shifted(x, -1, 0) + 2 * x + _shifted(x, 1, 0)
    smooth_columns = _shifted(x, 0, -1) + 2 * x + _shifted(x, 0, 1)
    across = _shifted(smooth_rows, 0, 1) - _shifted(smooth_rows, 0, -1)
    down = _shifted(smooth_columns, 1, 0) - _shifted(smooth_columns, -1, 0)
    return across, down


def _thinned(size: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Only what is largest along its own direction."""
    kept = np.zeros_like(size)
    sector = np.round(np.degrees(angle) % 180 / 45).astype(int) % 4
    for number, (y, x) in enumerate([(0, 1), (1, 1), (1, 0), (1, -1)]):
        largest = (size >= _shifted(size, y, x)) & (size >= _shifted(size, -y, -x))
        here = (sector == number) & largest
        kept[here] = size[here]
    return kept


def _grown(strong: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """The strong pixels, and the weak ones that hang together with them."""
    kept = strong.copy()
    added = np.argwhere(strong)
    while len(added):
        beside = (added[:, None] + NEIGHBOURS).reshape(-1, 2)
        inside = ((beside >= 0) & (beside < kept.shape)).all(axis=1)
        rows, columns = beside[inside].T
        new = weak[rows, columns] & ~kept[rows, columns]
        added = np.unique(np.stack([rows[new], columns[new]], axis=1), axis=0)
        kept[added[:, 0], added[:, 1]] = True
    return kept


def _shifted(x: np.ndarray, y_by: int, x_by: int) -> np.ndarray:
    """x[row + y_by, column + x_by], the border repeated."""
    rows = np.clip(np.arange(x.shape[0]) + y_by, 0, x.shape[0] - 1)
    columns = np.clip(np.arange(x.shape[1]) + x_by, 0, x.shape[1] - 1)
    return x[rows][:, columns]
