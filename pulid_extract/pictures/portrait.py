"""Portraits: read a picture file into RGB, limit its long side, cut a region by hand.

Pictures are uint8 RGB (H, W, 3), upright as a viewer shows them. Knows nothing of faces or
networks.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pulid_extract.shared.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP")
# what counts as a picture in a folder
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".heic", ".heif")
# ISO/IEC 23008-12, annex B
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
# by their first bytes
OTHERS = {
    b"GIF8": "a GIF",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"BM": "a BMP",
    b"%PDF": "a PDF",
}
MAX_FILE_BYTES = 512 << 20
MAX_PIXELS = 128 << 20  # phones reach 108 million; a decompression bomb claims billions
MIN_SIDE = 16  # below it the detectors' own resizing has nothing left to work on
# resize_numpy_image_long of the reference app (ToTheBeginning/PuLID 1aa2fc7, app_flux.py)
LONG_SIDE = 1024
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


@dataclass(frozen=True)
class Photo:
    """A portrait, and what the networks see of it: uint8 BGR, its long side limited. scale: (x, y)
    from that to the portrait.
    """

    image: np.ndarray
    bgr: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray) -> Photo:
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
        return self.image.shape[1] / self.bgr.shape[1], self.image.shape[0] / self.bgr.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the portrait."""
        return self.image.shape[1], self.image.shape[0]

    def in_portrait(self, box: tuple[float, float, float, float]) -> FaceBox:
        """A box as whole pixels of the portrait, cut at its borders: what --face-box would take."""
        left, right = (
            min(max(round(x * self.scale[0]), 0), self.size[0]) for x in (box[0], box[2])
        )
        top, bottom = (
            min(max(round(y * self.scale[1]), 0), self.size[1]) for y in (box[1], box[3])
        )
        return FaceBox(left, top, right - left, bottom - top)


def read_portrait(path: str | Path) -> np.ndarray:
    """The picture in a JPEG, PNG or WebP file ("-": standard input): uint8 RGB (H, W, 3). Raises
    InputError.
    """
    data, where = read_portrait_bytes(path)
    return decode_portrait(data, where)


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
    pictures = [path for path in inside if path.suffix.lower() in SUFFIXES and not path.is_dir()]
    if not pictures:
        raise InputError(
            f"{folder}: holds no picture; expected files that end in {', '.join(SUFFIXES)}"
        )
    return pictures, [path for path in inside if path not in pictures]


def read_portrait_bytes(path: str | Path, flag: str = "--portrait") -> tuple[bytes, str]:
    """The file's bytes, and its name for messages. flag: what named it. Raises InputError if it
    cannot be read or is larger than 512 MiB.
    """
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
        raise InputError(
            f"{where or 'an empty name'}: no such file; {flag} wants a JPEG, PNG or WebP picture"
        ) from None
    except IsADirectoryError:
        raise InputError(
            f"{where}: is a folder; a JPEG, PNG or WebP picture is wanted here"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(
            f"{where}: cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(
            f"{where}: is larger than {MAX_FILE_BYTES >> 20} MiB; give a smaller picture"
        )
    return data, where


def decode_portrait(data: bytes, where: str = "portrait") -> np.ndarray:
    """Decode, put upright, flatten on white. Returns uint8 RGB (H, W, 3). `where` names the source
    in messages.

    Colour profiles are not applied, as in the reference app. Raises InputError for bytes that are
    no such picture, truncated, animated, huge or tiny.
    """
    with warnings.catch_warnings():
        # Pillow warns of bombs (refused in `_opened`) and of odd EXIF
        warnings.simplefilter("ignore")
        image = _opened(data, where)
        width, height = image.size
        try:
            image.load()
            pixels = _flatten(image)
        except Exception as error:  # as in `_opened`; OSError for a truncated file
            raise InputError(
                f"{where}: cannot be decoded ({error}); the file is truncated or damaged"
            ) from None
        pixels = _upright(image, pixels)
    if min(pixels.shape[:2]) < MIN_SIDE:
        raise InputError(f"{where}: is {width}x{height} pixels; a face needs more")
    return pixels


def check_portrait(data: bytes, where: str = "portrait") -> None:
    """Raise InputError for what its first bytes already show to be no portrait; decodes nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _opened(data, where).close()


def _opened(data: bytes, where: str) -> Image.Image:
    """The picture, not decoded yet. Raises InputError for what is no picture, animated or huge."""
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise InputError(f"{where}: is empty; expected a JPEG, PNG or WebP picture")
    try:
        image = Image.open(io.BytesIO(data), formats=(*FORMATS, *_with_heif(data, where)))
        frames = getattr(image, "n_frames", 1)
    except Image.DecompressionBombError:
        raise InputError(
            f"{where}: claims more than {MAX_PIXELS >> 20} million pixels; give a smaller picture"
        ) from None
    except InputError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a damaged byte leads to
        why = _guess(data) or (
            "it starts like none of them" if isinstance(error, UnidentifiedImageError) else error
        )
        raise InputError(f"{where}: is not a readable JPEG, PNG or WebP picture ({why})") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{where}: is {width}x{height}, more than {MAX_PIXELS >> 20} million pixels; give a smaller picture"
        )
    # An MPO is a JPEG with a second view or preview behind the photograph, as phones write it: no
    # animation.
    if frames > 1 and image.format != "MPO":
        raise InputError(f"{where}: is an animation of {frames} frames; give a still picture")
    return image


def _with_heif(data: bytes, where: str) -> tuple[str, ...]:
    """HEIC needs Pillow's plugin pillow-heif, which is no dependency. Raises InputError, saying
    what to install, if it is not there.
    """
    if data[4:8] != b"ftyp" or data[8:12] not in HEIF_BRANDS:
        return ()
    try:
        import pillow_heif
    except ImportError:
        raise InputError(
            f"{where}: is HEIC; run: pip install pillow-heif, or save the picture as JPEG"
        ) from None
    pillow_heif.register_heif_opener()  # turns pictures upright itself, and says so in their EXIF
    return ("HEIF",)


def _guess(data: bytes) -> str:
    """A word on what people send instead, or nothing."""
    if data[4:12] == b"ftypavif":
        return "it is AVIF: save it as JPEG"
    if data.lstrip()[:1] == b"<":
        return "it is an HTML or SVG page"
    for start, name in OTHERS.items():
        if data.startswith(start):
            return f"it is {name}: save it as PNG"
    return ""


def _flatten(image: Image.Image) -> np.ndarray:
    """uint8 RGB (H, W, 3) of any mode Pillow opens; what is transparent becomes white."""
    from PIL import Image

    # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling
    if image.mode.startswith("I"):
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
    # a damaged EXIF block says nothing, and viewers show the picture as it is stored
    except Exception:
        return pixels
    if orientation not in UPRIGHT:
        return pixels
    return np.array(Image.fromarray(pixels).transpose(Image.Transpose[UPRIGHT[orientation]]))


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
    another size and a box that cannot be.
    """
    if mask is None and not boxes:
        return None
    width, height = size
    keep = np.ones((height, width), bool)
    if mask is not None:
        if mask.shape[:2] != (height, width):
            raise InputError(
                f"{where}: the mask is {mask.shape[1]}x{mask.shape[0]}, the upright portrait is {width}x{height}; they must be equal"
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
            f"{flag} {_text(box)}: reaches outside the portrait, which is {size[0]}x{size[1]} pixels"
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
        rims = [
            (before, side - before - length)
            for before, length in zip((y, x), part.shape, strict=False)
        ]
        square = np.pad(part, (*rims, (0, 0)), mode="edge")
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
