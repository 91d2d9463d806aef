"""Pictures, regions and conditions in the size of the second pass. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from pulid_generate.files.layouts import TOKEN_PIXELS
from pulid_generate.request.conditions.bundle import Conditions
from pulid_generate.request.conditions.reference_picture import nearest_pixels


def enlarged_picture(pixels: np.ndarray, width: int, height: int, upscaler: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (height, width, 3), by one of hires.PIXEL_UPSCALERS; what a model has
    enlarged, by Lanczos.
    """
    if upscaler == "Nearest":
        return nearest_pixels(pixels, width, height)
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    # a copy, which may be written to
    return np.array(resized)


def enlarged_region(
    region: np.ndarray, size: tuple[int, int], larger: tuple[int, int]
) -> np.ndarray:
    """Weights (L,) float32 over the tokens of a picture of `size` -> those of the larger one, both
    (width, height) in pixels. Each token has the weight of the one that lies there, so that 0 stays
    exactly 0 and the people's shares still come to 1 at most.
    """
    cells = region.reshape(size[1] // TOKEN_PIXELS, size[0] // TOKEN_PIXELS)
    columns, rows = larger[0] // TOKEN_PIXELS, larger[1] // TOKEN_PIXELS
    resized = Image.fromarray(cells.astype(np.float32)).resize(
        (columns, rows), Image.Resampling.NEAREST
    )
    return np.asarray(resized, np.float32).ravel()


def enlarged_conditions(conditions: Conditions, width: int, height: int) -> Conditions:
    """The same with what ControlNets read in the larger size. References have sizes of their
    own.
    """
    controls = []
    for use in conditions.controls:
        pixels = enlarged_picture(use.pixels, width, height, "Lanczos")
        controls.append(replace(use, pixels=pixels))
    return replace(conditions, controls=tuple(controls))
