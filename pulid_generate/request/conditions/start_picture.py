"""Pictures to start from: what `--init-img` and `--mask` name, as arrays of the size that is drawn,
and the paste that ends an inpainting.

Pictures are uint8 RGB (H, W, 3), masks uint8 (H, W) with white for what is redrawn. Knows nothing
of latents or models. Reading itself is pulid_extract/shared/picture_file.py.

A picture of another size is cropped around its centre to the shape that is drawn, then resized, as
sd-cli does it (leejet/stable-diffusion.cpp examples/common/media_io.cpp, `load_image_common`).
Otherwise than there: EXIF turns the picture upright, the colours of a photograph with a profile
become sRGB's, which is what is drawn, what is transparent is white in a picture and
black in a mask, and resizing is Lanczos (masks: bilinear, which never overshoots) instead of a box
filter, whose enlargements are blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pulid_extract.shared.picture_file import (
    PictureFormats,
    decode_picture,
    name_of,
    read_picture_bytes,
)
from pulid_generate.errors import InputError
from pulid_generate.files.layouts import TOKEN_PIXELS
from pulid_generate.request.conditions.mask_edge import grown

FORMATS = PictureFormats(
    ("JPEG", "PNG", "WEBP", "BMP", "TIFF"), "JPEG, PNG, WebP, BMP or TIFF", heic=True
)


class PictureBytes(NamedTuple):
    """A file that was read."""

    data: bytes
    # what messages call it
    where: str


Source = str | Path | bytes | PictureBytes


def read_init_image(source: Source, width: int, height: int) -> np.ndarray:
    """The picture that is drawn over, (height, width, 3) uint8 RGB.

    source: a file, "-" for standard input, or its bytes. Raises InputError for what is not a
    picture, truncated, animated or huge.
    """
    image = _decoded(source, "--init-img", "white", to_srgb=True).convert("RGB")
    return np.array(_fit(image, width, height, Image.Resampling.LANCZOS))


def read_picture(source: Source) -> np.ndarray:
    """A picture in its own size, (H, W, 3) uint8 RGB, upright, on white. Raises as
    `read_init_image`.
    """
    return np.array(_decoded(source, "the picture", "white", to_srgb=True).convert("RGB"))


def read_source(source: Source, flag: str = "--init-img") -> PictureBytes:
    """A picture's bytes, to be read more than once: "-" is standard input. Raises InputError."""
    if isinstance(source, PictureBytes):
        return source
    if isinstance(source, bytes):
        return PictureBytes(source, flag)
    return PictureBytes(read_picture_bytes(source, flag, FORMATS), name_of(source))


def init_image_size(source: Source) -> tuple[int, int]:
    """(width, height) for a drawing of the picture's own size: rounded down to multiples of 16, at
    least 16. Raises as `read_init_image`.
    """
    width, height = _decoded(source, "--init-img", "white").size
    return max(width // TOKEN_PIXELS, 1) * TOKEN_PIXELS, max(
        height // TOKEN_PIXELS, 1
    ) * TOKEN_PIXELS


def read_mask(
    source: Source, width: int, height: int, init_image: Source | None = None, grow: int = 0
) -> np.ndarray:
    """The mask of an inpainting, (height, width) uint8: 255 is redrawn, 0 stays, grey is mixed.

    A mask has the size that is drawn, or that of `init_image`, with which it is then cropped and
    resized. grow: pixels of the drawn size by which its white parts become larger, or smaller.
    Raises InputError for another size, for a mask that leaves nothing to redraw, and as
    `read_init_image`.
    """
    source = read_source(source, "--mask")
    name = source.where
    image = _decoded(source, "--mask", "black").convert("L")
    sizes = [(width, height)]
    wanted = f"{width}x{height}"
    if init_image is not None:
        own_size = _decoded(init_image, "--init-img", "white").size
        sizes.append(own_size)
        wanted += f", or {own_size[0]}x{own_size[1]} as the picture"
    if image.size not in sizes:
        raise InputError(
            f"{name}: the mask is {image.width}x{image.height} pixels; expected {wanted}; "
            "save it in that size"
        )
    mask = np.array(_fit(image, width, height, Image.Resampling.BILINEAR))
    if not mask.any():
        raise InputError(
            f"{name}: the mask is all black, there is nothing to redraw; "
            "paint what is to be redrawn in white"
        )
    mask = grown(mask, grow)
    if not mask.any():
        raise InputError(f"{name}: a --mask-grow of {grow} pixels leaves nothing to redraw")
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


def _decoded(source: Source, flag: str, behind: str, to_srgb: bool = False) -> Image.Image:
    """Upright, 8 bits per channel, on a ground of the colour `behind`."""
    data, where = read_source(source, flag)
    return decode_picture(data, where, FORMATS, behind, to_srgb)


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
