"""The edge of a mask: moved outwards or inwards, and feathered. Pure numbers; imports no torch.

Masks are uint8 (H, W), 255 is redrawn. Knows nothing of files, latents or models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pulid_generate.errors import RequestError

# Pixels; far beyond what an edge is, and a bound on the time that it takes
MOST_PIXELS = 512
# Of a Gaussian, in sigmas: leejet/stable-diffusion.cpp 97d29908 src/detailer.cpp
REACH = 2.5


@dataclass(frozen=True)
class MaskEdge:
    """What becomes of a mask's edge before and after the drawing. Raises RequestError."""

    # Pixels that the mask grows by on every side; shrinks if less than 0
    grow: int = 0
    # Sigma of the feather in pixels, by which the redrawn part is put back; 0 keeps a hard edge
    blur: float = 0.0

    def __post_init__(self) -> None:
        if not abs(self.grow) <= MOST_PIXELS:
            raise RequestError(
                f"mask-grow {self.grow}: expected pixels from -{MOST_PIXELS} to {MOST_PIXELS}"
            )
        if not 0 <= self.blur <= MOST_PIXELS:
            raise RequestError(f"mask-blur {self.blur:g}: expected pixels from 0 to {MOST_PIXELS}")


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask with every white part larger by `pixels` on all sides, smaller where that is less
    than 0. A square, as ADetailer's: the largest, or smallest, number within reach.
    """
    if pixels == 0:
        return mask
    edge = 255 if pixels < 0 else 0
    reach = abs(pixels)
    for axis in (0, 1):
        around = [(0, 0), (0, 0)]
        around[axis] = (reach, reach)
        padded = np.pad(mask, around, constant_values=edge)
        windows = sliding_window_view(padded, 2 * reach + 1, axis)
        mask = windows.max(-1) if pixels > 0 else windows.min(-1)
    return mask


def feathered(mask: np.ndarray, sigma: float) -> np.ndarray:
    """The mask through a Gaussian of that many pixels, cut off at 2.5 of them: the share of the
    redrawn picture, 0 to 255. Beyond the picture's border the mask goes on as it ends there.
    """
    if sigma == 0:
        return mask
    reach = max(1, math.ceil(REACH * sigma))
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2)).astype(np.float32)
    kernel /= kernel.sum()
    soft = mask.astype(np.float32)
    for axis in (0, 1):
        length = soft.shape[axis]
        around = [(0, 0), (0, 0)]
        around[axis] = (reach, reach)
        padded = np.pad(soft, around, mode="edge")
        soft = np.zeros_like(soft)
        # one shift after the other: all of them at once would take a copy for each
        for start, share in enumerate(kernel):
            soft += share * np.take(padded, range(start, start + length), axis)
    return np.asarray(np.clip(soft + 0.5, 0, 255), np.uint8)
