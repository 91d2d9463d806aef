"""Portraits: read a picture file into RGB, limit its long side, cut a region by hand.

Pictures are uint8 RGB (H, W, 3), upright as a viewer shows them. Knows nothing of faces or networks.
"""

from __future__ import annotations

import io
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pulid_extract.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_FILE_BYTES = 512 << 20
MAX_PIXELS = 128 << 20  # phones reach 108 million; a decompression bomb claims billions
MIN_SIDE = 16  # below it the detectors' own resizing has nothing left to work on
LONG_SIDE = 1024  # resize_numpy_image_long of the reference app (ToTheBeginning/PuLID 1aa2fc7, app_flux.py)
CROP_SIDE = 512  # the aligned face of facexlib
PAD_RGB = (132, 133, 135)  # facexlib's border grey, which it gives as BGR (135, 133, 132)

# EXIF orientation -> the PIL transposition that puts the picture upright (Exif 2.3, tag 0x0112)
ORIENTATION = 0x0112
UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


@dataclass(frozen=True)
class FaceBox:
    """A region of the upright picture in its own pixels: left, top, width, height."""

    x: int
    y: int
    width: int
    height: int


def read_portrait(path: str | Path) -> np.ndarray:
    """The picture in a JPEG, PNG or WebP file ("-": standard input): uint8 RGB (H, W, 3). Raises InputError."""
    data, where = read_portrait_bytes(path)
    return decode_portrait(data, where)


def read_portrait_bytes(path: str | Path) -> tuple[bytes, str]:
    """The file's bytes, and its name for messages. Raises InputError if it cannot be read or is larger than 512 MiB."""
    where = "standard input" if str(path) == "-" else str(path)
    try:
        if str(path) == "-":
            if sys.stdin is None:
                raise InputError(f"{where}: is closed; pipe a picture in, or name a file")
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{where}: no such file; --portrait wants a JPEG, PNG or WebP picture") from None
    except IsADirectoryError:
        raise InputError(f"{where}: is a folder; --portrait wants one JPEG, PNG or WebP picture") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{where}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{where}: is larger than {MAX_FILE_BYTES >> 20} MiB; give a smaller picture")
    return data, where


def decode_portrait(data: bytes, where: str = "portrait") -> np.ndarray:
    """Decode, put upright, flatten on white. Returns uint8 RGB (H, W, 3). `where` names the source in messages.

    Colour profiles are not applied, as in the reference app. Raises InputError for bytes that are no such picture,
    truncated, animated, huge or tiny.
    """
    from PIL import Image

    if not data:
        raise InputError(f"{where}: is empty; expected a JPEG, PNG or WebP picture")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of bombs (refused below) and of odd EXIF
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            frames = getattr(image, "n_frames", 1)
        except Image.DecompressionBombError:
            raise InputError(f"{where}: claims more than {MAX_PIXELS >> 20} million pixels; give a smaller picture") from None
        except Exception as error:  # Pillow's plugins raise whatever a damaged byte leads to
            raise InputError(f"{where}: is not a readable JPEG, PNG or WebP picture ({_guess(data) or error})") from None
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise InputError(f"{where}: is {width}x{height}, more than {MAX_PIXELS >> 20} million pixels; give a smaller picture")
        # An MPO is a JPEG with a second view or preview behind the photograph, as phones write it: no animation.
        if frames > 1 and image.format != "MPO":
            raise InputError(f"{where}: is an animation of {frames} frames; give a still picture")
        try:
            image.load()
            pixels = _flatten(image)
        except Exception as error:  # as above; OSError for a truncated file
            raise InputError(f"{where}: cannot be decoded ({error}); the file is truncated or damaged") from None
        pixels = _upright(image, pixels)
    if min(pixels.shape[:2]) < MIN_SIDE:
        raise InputError(f"{where}: is {width}x{height} pixels; a face needs more")
    return pixels


def _guess(data: bytes) -> str:
    """A word on what people send instead, or nothing."""
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
        return "it is HEIC or AVIF: save it as JPEG"
    if data.lstrip()[:1] == b"<":
        return "it is an HTML or SVG page"
    if data[:4] == b"GIF8":
        return "it is a GIF: save it as PNG"
    return ""


def _flatten(image: Image.Image) -> np.ndarray:
    """uint8 RGB (H, W, 3) of any mode Pillow opens; what is transparent becomes white."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling
        wide = np.asarray(image).astype(np.uint32)
        grey = ((wide * 255 + 32767) // 65535).astype(np.uint8)
        grey[wide == image.info.get("transparency", -1)] = 255
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:  # alpha, a palette's alpha, or one colour named transparent
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return np.array(Image.alpha_composite(white, rgba).convert("RGB"))
    return np.array(image.convert("RGB"))


def _upright(image: Image.Image, pixels: np.ndarray) -> np.ndarray:
    from PIL import Image

    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing, and viewers show the picture as it is stored
        return pixels
    if orientation not in UPRIGHT:
        return pixels
    return np.array(Image.fromarray(pixels).transpose(Image.Transpose[UPRIGHT[orientation]]))


def limit_long_side(image: np.ndarray, limit: int = LONG_SIDE) -> np.ndarray:
    """The picture itself if its long side is within the limit, else shrunk by LANCZOS4; sides are truncated, as the reference's.

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


def crop_box(image: np.ndarray, box: FaceBox, full_size: tuple[int, int], pad: tuple[int, int, int] = PAD_RGB) -> np.ndarray:
    """The region as an aligned face: squared around its centre, resized to 512x512.

    image: uint8 (H, W, 3), the limited picture. full_size: (width, height) of the picture that `box` counts in.
    pad: the colour, in the picture's channel order, that fills the square where it is larger than the picture; else the
    square is moved inside.
    A square of 512 pixels is copied as it is. Raises InputError for a box without area or reaching outside.
    """
    import cv2

    full_width, full_height = full_size
    if box.width < 1 or box.height < 1:
        raise InputError(f"--face-box {_text(box)}: has no area; give X,Y,W,H with W and H above 0")
    if box.x < 0 or box.y < 0 or box.x + box.width > full_width or box.y + box.height > full_height:
        raise InputError(f"--face-box {_text(box)}: reaches outside the portrait, which is {full_width}x{full_height} pixels")
    if max(box.width, box.height) < MIN_SIDE:
        raise InputError(f"--face-box {_text(box)}: is too small to hold a face; give at least {MIN_SIDE} pixels")
    height, width = image.shape[:2]
    scale_x, scale_y = width / full_width, height / full_height
    side = max(1, round(max(box.width * scale_x, box.height * scale_y)))
    left = _inside((box.x + box.width / 2) * scale_x, side, width)
    top = _inside((box.y + box.height / 2) * scale_y, side, height)
    square = np.full((side, side, 3), pad, np.uint8)
    part = image[max(top, 0) : top + side, max(left, 0) : left + side]
    y, x = max(-top, 0), max(-left, 0)
    square[y : y + part.shape[0], x : x + part.shape[1]] = part
    if side == CROP_SIDE:
        return square
    interpolation = cv2.INTER_AREA if side > CROP_SIDE else cv2.INTER_LANCZOS4
    return cv2.resize(square, (CROP_SIDE, CROP_SIDE), interpolation=interpolation)


def _inside(centre: float, side: int, length: int) -> int:
    """Start of a segment of `side` around `centre`, moved inside 0..length; centred on the picture if it is longer."""
    if side >= length:
        return (length - side) // 2
    return min(max(round(centre - side / 2), 0), length - side)


def _text(box: FaceBox) -> str:
    return f"{box.x},{box.y},{box.width},{box.height}"
