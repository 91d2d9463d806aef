"""Regions of a portrait by hand: boxes and masks, what they leave of it, and a box cut out as an
aligned face.

Pictures are uint8 (H, W, 3). Pure but for OpenCV's resizing. Knows nothing of files, faces or
networks beyond the flag names it puts into messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pulid_extract.shared.errors import InputError

# pixels; below it the detectors' own resizing has nothing left to work on
MIN_SIDE = 16
# of the aligned face of facexlib
CROP_SIDE = 512
# facexlib's border grey, which it gives as BGR (135, 133, 132)
PAD_RGB = (132, 133, 135)


@dataclass(frozen=True)
class FaceBox:
    """A region of the upright picture in its own pixels: left, top, width, height."""

    x: int
    y: int
    width: int
    height: int


def limit_mask(keep: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A bool mask (H, W) as the limited picture of `size` (width, height) sees it: uint8 (h, w, 3),
    255 where it keeps.
    """
    import cv2

    white = np.where(keep, np.uint8(255), np.uint8(0))
    if size != white.shape[::-1]:
        white = cv2.resize(white, size, interpolation=cv2.INTER_AREA)
    return np.repeat(white[..., None], 3, axis=2)


def keep_of(
    size: tuple[int, int], mask: np.ndarray | None, boxes: Sequence[FaceBox], where: str
) -> np.ndarray | None:
    """What EVA-CLIP may see of a portrait of `size` (width, height): bool (H, W); None for all of
    it.

    mask: uint8 RGB (H, W, 3), the lighter half keeps. boxes: regions, of which any keeps. With
    both, what both keep. `where` names the mask in messages. Raises InputError for a mask of
    another size and for an invalid box.
    """
    if mask is None and not boxes:
        return None
    width, height = size
    keep = np.ones((height, width), bool)
    if mask is not None:
        if mask.shape[:2] != (height, width):
            raise InputError(
                f"{where}: the mask is {mask.shape[1]}x{mask.shape[0]}, the upright portrait is "
                f"{width}x{height}; they must be equal"
            )
        keep &= mask.mean(axis=2) >= 128
    if boxes:
        inside = np.zeros_like(keep)
        for box in boxes:
            check_box("--box", box, size, smallest=1)
            inside[box.y : box.y + box.height, box.x : box.x + box.width] = True
        keep &= inside
    return keep


def check_box(flag: str, box: FaceBox, size: tuple[int, int], smallest: int = MIN_SIDE) -> None:
    """Raise InputError for a box without area, outside a picture of `size` (width, height), or
    smaller than `smallest`.
    """
    if box.width < 1 or box.height < 1:
        raise InputError(f"{flag} {_text(box)}: has no area; give X,Y,W,H with W and H above 0")
    if box.x < 0 or box.y < 0 or box.x + box.width > size[0] or box.y + box.height > size[1]:
        raise InputError(
            f"{flag} {_text(box)}: reaches outside the portrait, which is {size[0]}x{size[1]} "
            "pixels"
        )
    if max(box.width, box.height) < smallest:
        raise InputError(
            f"{flag} {_text(box)}: is too small to hold a face; give at least {smallest} pixels"
        )


def crop_box(
    image: np.ndarray,
    box: FaceBox,
    full_size: tuple[int, int],
    pad: tuple[int, int, int] | None = PAD_RGB,
) -> np.ndarray:
    """The region as an aligned face: squared around its centre, resized to 512x512.

    image: uint8 (H, W, 3), the limited picture. full_size: (width, height) of the picture that
    `box` counts in. pad: the colour, in the picture's channel order, that fills the square where it
    is larger than the picture (None: the picture's rim); else the square is moved inside. A square
    of 512 pixels is copied as it is. Raises InputError for a box without area or reaching outside.
    """
    import cv2

    check_box("--face-box", box, full_size)
    full_width, full_height = full_size
    height, width = image.shape[:2]
    scale_x, scale_y = width / full_width, height / full_height
    side = max(1, round(max(box.width * scale_x, box.height * scale_y)))
    left = _inside((box.x + box.width / 2) * scale_x, side, width)
    top = _inside((box.y + box.height / 2) * scale_y, side, height)
    part = image[max(top, 0) : top + side, max(left, 0) : left + side]
    y, x = max(-top, 0), max(-left, 0)
    if pad is None:
        below, beyond = side - y - part.shape[0], side - x - part.shape[1]
        square = np.pad(part, ((y, below), (x, beyond), (0, 0)), mode="edge")
    else:
        square = np.full((side, side, 3), pad, np.uint8)
        square[y : y + part.shape[0], x : x + part.shape[1]] = part
    if side == CROP_SIDE:
        return square
    interpolation = cv2.INTER_AREA if side > CROP_SIDE else cv2.INTER_LANCZOS4
    return cv2.resize(square, (CROP_SIDE, CROP_SIDE), interpolation=interpolation)


def _inside(centre: float, side: int, length: int) -> int:
    """Start of a segment of `side` around `centre`, moved inside 0..length; centred on the picture
    if it is longer.
    """
    if side >= length:
        return (length - side) // 2
    return min(max(round(centre - side / 2), 0), length - side)


def _text(box: FaceBox) -> str:
    return f"{box.x},{box.y},{box.width},{box.height}"
