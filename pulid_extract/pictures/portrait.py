"""Portraits: a picture file into RGB, its long side limited, and what else the networks see of it.

Pictures are uint8 RGB (H, W, 3), upright as a viewer shows them. Reading itself is
shared/picture_file.py. Knows nothing of faces or networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pulid_extract.pictures.regions import MIN_SIDE, PAD_RGB, FaceBox
from pulid_extract.shared.errors import InputError
from pulid_extract.shared.picture_file import (
    PictureFormats,
    check_picture,
    decode_picture,
    name_of,
    read_picture_bytes,
)

FORMATS = PictureFormats(("JPEG", "PNG", "WEBP"), "JPEG, PNG or WebP", heic=True)
# what counts as a picture in a folder
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".heic", ".heif")
# resize_numpy_image_long of the reference app (ToTheBeginning/PuLID 1aa2fc7, app_flux.py)
LONG_SIDE = 1024


@dataclass(frozen=True)
class Photo:
    """A portrait, and what the networks see of it."""

    # uint8 RGB (H, W, 3), upright
    image: np.ndarray
    # the same as uint8 BGR, its long side limited
    bgr: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray) -> Photo:
        """image: uint8 RGB (H, W, 3). Raises InputError for another array or a ribbon."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(
                f"the portrait is {image.dtype} {image.shape}, expected uint8 RGB (H, W, 3)"
            )
        return cls(image, np.ascontiguousarray(limit_long_side(image)[..., ::-1]))

    @property
    def rgb(self) -> np.ndarray:
        """The limited picture, uint8 RGB."""
        return np.ascontiguousarray(self.bgr[..., ::-1])

    @property
    def scale(self) -> tuple[float, float]:
        """(x, y) from the limited picture to the portrait."""
        return self.image.shape[1] / self.bgr.shape[1], self.image.shape[0] / self.bgr.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the portrait."""
        return self.image.shape[1], self.image.shape[0]

    def in_portrait(self, box: tuple[float, float, float, float]) -> FaceBox:
        """A box as whole pixels of the portrait, cut at its borders: what --face-box would take."""
        (sx, sy), (width, height) = self.scale, self.size
        left, right = (min(max(round(x * sx), 0), width) for x in (box[0], box[2]))
        top, bottom = (min(max(round(y * sy), 0), height) for y in (box[1], box[3]))
        return FaceBox(left, top, right - left, bottom - top)


def read_portrait(path: str | Path) -> np.ndarray:
    """The picture in a JPEG, PNG or WebP file ("-": standard input): uint8 RGB (H, W, 3). Raises
    InputError.
    """
    return decode_portrait(*read_portrait_bytes(path))


def pictures_in(folder: str | Path) -> tuple[list[Path], list[Path]]:
    """The pictures of a folder by their names' endings, and what else is in it; both sorted, hidden
    files left out.

    Sub-folders are not entered. Raises InputError for a folder without a picture, and for one that
    cannot be read.
    """
    try:
        inside = sorted(path for path in Path(folder).iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error})") from None
    pictures: list[Path] = []
    others: list[Path] = []
    for path in inside:
        if path.suffix.lower() in SUFFIXES and not path.is_dir():
            pictures.append(path)
        else:
            others.append(path)
    if not pictures:
        raise InputError(
            f"{folder}: holds no picture; expected files that end in {', '.join(SUFFIXES)}"
        )
    return pictures, others


def read_portrait_bytes(path: str | Path, flag: str = "--portrait") -> tuple[bytes, str]:
    """The file's bytes, and its name for messages. flag: what named it. Raises InputError if it
    cannot be read or is larger than 512 MiB.
    """
    return read_picture_bytes(path, flag, FORMATS), name_of(path)


def decode_portrait(data: bytes, where: str = "portrait") -> np.ndarray:
    """Decode, put upright, flatten on white. Returns uint8 RGB (H, W, 3). `where` names the source
    in messages.

    Raises InputError for bytes that are not such a picture, truncated, animated, huge or tiny.
    """
    pixels = np.array(decode_picture(data, where, FORMATS).convert("RGB"))
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise InputError(f"{where}: is {width}x{height} pixels; a face needs more")
    return pixels


def check_portrait(data: bytes, where: str = "portrait") -> None:
    """Raise InputError for what its first bytes already show not to be a portrait; decodes
    nothing.
    """
    check_picture(data, where, FORMATS)


def limit_long_side(image: np.ndarray, limit: int = LONG_SIDE) -> np.ndarray:
    """The picture itself if its long side is within the limit, else shrunk by LANCZOS4; sides are
    truncated, as the reference's.

    image: uint8 (H, W, 3). Raises InputError if the short side all but vanishes.
    """
    import cv2

    height, width = image.shape[:2]
    if max(height, width) <= limit:
        return image
    scale = limit / max(height, width)
    small = (int(width * scale), int(height * scale))
    if min(small) < MIN_SIDE:
        raise InputError(f"the portrait is {width}x{height}: too narrow to hold a face")
    return cv2.resize(image, small, interpolation=cv2.INTER_LANCZOS4)


def with_margin(image: np.ndarray) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """The picture with half its size of grey on each side, for detectors that miss a face that
    fills the frame.

    image: uint8 BGR (H, W, 3). Returns the larger picture, its long side limited, and (scale,
    shift) that lead back: x of the picture = x of the larger one * scale + shift, and y alike.
    """
    height, width = image.shape[:2]
    left, top = width // 2, height // 2
    canvas = np.full((height + 2 * top, width + 2 * left, 3), PAD_RGB[::-1], np.uint8)
    canvas[top : top + height, left : left + width] = image
    small = limit_long_side(canvas)
    scale = (canvas.shape[1] / small.shape[1], canvas.shape[0] / small.shape[0])
    return small, scale, (-float(left), -float(top))
