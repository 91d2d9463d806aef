"""Pictures to start from: what `--init-img` and `--mask` name, as arrays of the size that is drawn,
and the paste that ends an inpainting.

Pictures are uint8 RGB (H, W, 3), masks uint8 (H, W) with white for what is redrawn. Knows nothing
of latents or models.

A picture of another size is cropped around its centre to the shape that is drawn, then resized, as
sd-cli does it (leejet/stable-diffusion.cpp examples/common/media_io.cpp, `load_image_common`).
Otherwise than there: EXIF turns the picture upright, what is transparent is white in a picture and
black in a mask, and resizing is Lanczos (masks: bilinear, which never overshoots) instead of a box
filter, whose enlargements are blocks.
"""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pulid_generate.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MAX_FILE_BYTES = 512 << 20
MAX_PIXELS = 128 << 20  # phones reach 108 million; a decompression bomb claims billions
SIZE_UNIT = 16  # pixels per image token

Source = str | Path | bytes


def read_init_image(source: Source, width: int, height: int) -> np.ndarray:
    """The picture that is drawn over, (height, width, 3) uint8 RGB.

    source: a file, "-" for standard input, or its bytes. Raises InputError for what is no picture,
    truncated, animated or huge.
    """
    image = _open(source, "--init-img")
    return np.array(
        _fit(_flatten(image, "white").convert("RGB"), width, height, Image.Resampling.LANCZOS)
    )


def read_source(source: Source, flag: str = "--init-img") -> bytes:
    """A picture's bytes, to be read more than once: "-" is standard input. Raises InputError."""
    return _read(source, _name(source, flag), flag)


def init_image_size(source: Source) -> tuple[int, int]:
    """(width, height) for a drawing of the picture's own size: rounded down to multiples of 16, at
    least 16. Raises as `read_init_image`.
    """
    width, height = _open(source, "--init-img").size
    return max(width // SIZE_UNIT, 1) * SIZE_UNIT, max(height // SIZE_UNIT, 1) * SIZE_UNIT


def read_mask(
    source: Source, width: int, height: int, init_image: Source | None = None
) -> np.ndarray:
    """The mask of an inpainting, (height, width) uint8: 255 is redrawn, 0 stays, grey is mixed.

    A mask has the size that is drawn, or that of `init_image`, with which it is then cropped and
    resized. Raises InputError for another size, for a mask that leaves nothing to redraw, and as
    `read_init_image`.
    """
    name = _name(source, "--mask")
    image = _open(source, "--mask")
    own_size = _open(init_image, "--init-img").size if init_image is not None else None
    if image.size not in ((width, height), own_size):
        wanted = f"{width}x{height}" + (
            f", or {own_size[0]}x{own_size[1]} as the picture" if own_size else ""
        )
        raise InputError(
            f"{name}: the mask is {image.size[0]}x{image.size[1]} pixels; expected {wanted}; save it in that size"
        )
    mask = np.array(
        _fit(_flatten(image, "black").convert("L"), width, height, Image.Resampling.BILINEAR)
    )
    if not mask.any():
        raise InputError(
            f"{name}: the mask is all black, there is nothing to redraw; paint what is to be redrawn in white"
        )
    return mask


def paste(drawn: np.ndarray, original: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The drawn picture where the mask is white, the original's own pixels where it is black, mixed
    where it is grey.

    drawn, original: (H, W, 3) uint8; mask: (H, W) uint8. The autoencoder changes pixels a little
    even where nothing was redrawn.
    """
    share = mask.astype(np.uint32)[..., None]
    return ((drawn * share + original * (255 - share) + 127) // 255).astype(np.uint8)


# -------------------------------------------------------------------------------------------- parts


def _name(source: Source, flag: str) -> str:
    if isinstance(source, bytes):
        return flag
    return "standard input" if str(source) == "-" else str(source)


def _open(source: Source, flag: str) -> Image.Image:
    """The decoded picture, upright, in its own mode."""
    name = _name(source, flag)
    data = _read(source, name, flag)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of bombs (refused below) and of odd EXIF
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            frames = getattr(image, "n_frames", 1)
        except Image.DecompressionBombError:
            raise InputError(
                f"{name}: claims more than {MAX_PIXELS >> 20} million pixels; give a smaller picture"
            ) from None
        except Exception:  # Pillow's plugins raise whatever a damaged byte leads to
            raise InputError(
                f"{name}: is not a readable picture; {flag} wants JPEG, PNG, WebP, BMP or TIFF"
            ) from None
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise InputError(
                f"{name}: is {width}x{height}, more than {MAX_PIXELS >> 20} million pixels; give a smaller picture"
            )
        # a phone's JPEG with a preview behind the photograph
        if frames > 1 and image.format != "MPO":
            raise InputError(f"{name}: is an animation of {frames} frames; give a still picture")
        try:
            image.load()
        except Exception as error:  # as above; OSError for a truncated file
            raise InputError(
                f"{name}: cannot be decoded ({error}); the file is truncated or damaged"
            ) from None
        try:
            return ImageOps.exif_transpose(image)
        # a damaged EXIF block says nothing, and viewers show the picture as it is stored
        except Exception:
            return image


def _read(source: Source, name: str, flag: str) -> bytes:
    try:
        if isinstance(source, bytes):
            data = source
        elif str(source) == "-":
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with open(source, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file; {flag} wants a picture") from None
    except IsADirectoryError:
        raise InputError(f"{name}: is a folder; {flag} wants one picture") from None
    # a NUL in the name; standard input closed
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(
            f"{name}: is larger than {MAX_FILE_BYTES >> 20} MiB; give a smaller picture"
        )
    return data


def _flatten(image: Image.Image, behind: str) -> Image.Image:
    """8 bits per channel; what is transparent shows the colour behind it."""
    # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide * 255 + 32767) // 65535).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:  # alpha, a palette's alpha, or one colour named transparent
        return Image.alpha_composite(
            Image.new("RGBA", image.size, behind), image.convert("RGBA")
        ).convert("RGB")
    return image.convert("RGB") if image.mode != "L" else image


def _fit(image: Image.Image, width: int, height: int, resampling: Image.Resampling) -> Image.Image:
    """Cropped around the centre to the shape of width x height, then resized to it; untouched where
    it already has that size.
    """
    own_width, own_height = image.size
    if (own_width, own_height) == (width, height):
        return image
    if own_width * height > own_height * width:
        crop = max(own_height * width // height, 1), own_height
    else:
        crop = own_width, max(own_width * height // width, 1)
    left, top = (own_width - crop[0]) // 2, (own_height - crop[1]) // 2
    # cropped first: a box given to resize() would let the pixels around it shine in
    return image.crop((left, top, left + crop[0], top + crop[1])).resize(
        (width, height), resampling
    )
