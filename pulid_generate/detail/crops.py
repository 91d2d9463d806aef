"""A face cut out with a margin, in the size that a model draws well, and put back through a
feathered mask. Pixels only.

Pictures are uint8 RGB (H, W, 3), masks uint8 (H, W), white for what is redrawn.

Source: leejet/stable-diffusion.cpp 97d29908 src/detailer.cpp (`expand_crop`, `morphology_mask`,
`composite_crop`). Otherwise than there both resizes are Lanczos with its antialiasing (bilinear
without one), the margin holds at least the feather, and what is redrawn has a feathered mask too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pulid_generate.request.conditions.mask_edge import REACH, feathered, grown
from pulid_generate.request.conditions.start_picture import paste
from pulid_generate.request.passes.detail import DetailSettings

# left, top, right, bottom
Edges = tuple[int, int, int, int]


@dataclass(frozen=True)
class FaceCrop:
    """Where a face is cut out, and what of it is redrawn. Pixels of the picture."""

    window: Edges
    # inside the picture, and inside the window
    face: Edges

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the window."""
        left, top, right, bottom = self.window
        return right - left, bottom - top


def crop_of(
    box: tuple[int, int, int, int],
    picture: tuple[int, int],
    settings: DetailSettings,
    target: tuple[int, int],
) -> FaceCrop | None:
    """The crop of a face's box (X, Y, width, height); None for one that the settings leave nothing
    of.

    picture: its width and height. target: the width and height that the crop is redrawn in, whose
    shape the window has where the picture has room for it.
    """
    face = _mask_box(box, picture, settings)
    if face is None:
        return None
    margin = max(settings.inpaint_padding, math.ceil(REACH * settings.mask_blur))
    left, right = max(face[0] - margin, 0), min(face[2] + margin, picture[0])
    top, bottom = max(face[1] - margin, 0), min(face[3] + margin, picture[1])
    width, height = right - left, bottom - top
    aspect = target[0] / target[1]
    if width / height < aspect:
        width = math.ceil(height * aspect)
    else:
        height = math.ceil(width / aspect)
    across = _around((left + right) // 2, min(width, picture[0]), picture[0])
    down = _around((top + bottom) // 2, min(height, picture[1]), picture[1])
    return FaceCrop((across[0], down[0], across[1], down[1]), face)


def _mask_box(
    box: tuple[int, int, int, int], picture: tuple[int, int], settings: DetailSettings
) -> Edges | None:
    """The box, moved, and grown by a square of `dilate_erode` pixels whose middle is the later of
    two.
    """
    x, y, width, height = box
    left, top = x + settings.x_offset, y - settings.y_offset
    right, bottom = left + width, top + height
    side = abs(settings.dilate_erode)
    before = side // 2
    after = max(side - before - 1, 0)
    if settings.dilate_erode < 0:
        before, after = -after, -before
    left, top = max(left - after, 0), max(top - after, 0)
    right, bottom = min(right + before, picture[0]), min(bottom + before, picture[1])
    return (left, top, right, bottom) if left < right and top < bottom else None


def _around(centre: int, length: int, whole: int) -> tuple[int, int]:
    """A stretch of that length around a centre, moved into 0..whole."""
    start = min(max(centre - length // 2, 0), whole - length)
    return start, start + length


def cut_out(
    pixels: np.ndarray, crop: FaceCrop, target: tuple[int, int], blur: float
) -> tuple[np.ndarray, np.ndarray]:
    """(picture, mask) to redraw, in the target's width and height.

    blur: sigma, in pixels of the picture, of the feather by which it is put back. That of the mask
    is as wide and lies so much further in: where the redrawn face begins to show, little of it
    has been free to differ.
    """
    left, top, right, bottom = crop.window
    window = Image.fromarray(pixels[top:bottom, left:right])
    # of a face that is small beside its feather half stays at least
    inwards = min(round(blur), min(np.subtract(crop.face[2:], crop.face[:2])) // 4)
    mask = Image.fromarray(grown(_mask(crop), -inwards)).resize(target, Image.Resampling.NEAREST)
    resized = np.array(window.resize(target, Image.Resampling.LANCZOS))
    larger = math.sqrt(math.prod(target) / math.prod(crop.size))
    return resized, feathered(np.array(mask), blur * larger)


def put_back(pixels: np.ndarray, drawn: np.ndarray, crop: FaceCrop, blur: float) -> np.ndarray:
    """The picture with what was drawn of a crop in its place. Beyond the feather, 2.5 `blur`
    pixels around the face, every pixel is the picture's own.
    """
    left, top, right, bottom = crop.window
    fitted = np.array(Image.fromarray(drawn).resize(crop.size, Image.Resampling.LANCZOS))
    result = pixels.copy()
    window = pixels[top:bottom, left:right]
    result[top:bottom, left:right] = paste(fitted, window, feathered(_mask(crop), blur))
    return result


def _mask(crop: FaceCrop) -> np.ndarray:
    """(height, width) of the window."""
    width, height = crop.size
    left, top = crop.window[:2]
    mask = np.zeros((height, width), np.uint8)
    mask[crop.face[1] - top : crop.face[3] - top, crop.face[0] - left : crop.face[2] - left] = 255
    return mask
