"""Pictures that FLUX.1 Kontext reads beside the one that it draws: in which size, and where they
stand among its positions. Knows no model; imports no torch.

Sizes and places are sd-cli's; pictures are resized by Lanczos, where sd-cli takes the nearest
pixel, which is there as an option.

Source: leejet/stable-diffusion.cpp 97d29908 src/stable-diffusion.cpp (`vae_image_size`) and
src/model/common/rope.hpp (`gen_refs_ids`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from PIL import Image

from pulid_extract.shared.picture_file import decode_picture
from pulid_generate.errors import InputError, RequestError
from pulid_generate.files.layouts import LATENT_SCALE, TOKEN_PIXELS
from pulid_generate.request.conditions.start_picture import FORMATS, read_source

IndexMode = Literal["fixed", "increase", "decrease"]
Resizing = Literal["antialiased", "nearest"]
MAX_PIXELS = 1024 * 1024
# no larger than this, whatever is asked for
MOST_PIXELS = 16 * MAX_PIXELS
# sd-cli's keys that belong to models which read pictures with a language model
OTHER_KEYS = (
    *("preset", "pass_to_vlm", "pass_to_dit", "force_ref_timestep_zero"),
    *("vlm_resize_mode", "vlm_max_size", "vlm_min_size", "vlm_size"),
)
YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True)
class ReferenceOptions:
    """How references are read."""

    # Brought to the size below; else they keep their own
    resized: bool = True
    # Pixels of a resized one: no more than these, and no more than the picture has
    max_pixels: int = MAX_PIXELS
    # The first of a position's three numbers: 1 for all references, or one further for each
    index: IndexMode = "fixed"
    resizing: Resizing = "antialiased"

    @classmethod
    def parse(cls, text: str, *, increase: bool = False, resize: bool = True) -> ReferenceOptions:
        """From --ref-image-args, over what --increase-ref-index and
        --disable-auto-resize-ref-image say. Raises RequestError.
        """
        options = cls(resized=resize, index="increase" if increase else "fixed")
        for part in filter(None, (part.strip() for part in text.replace(";", ",").split(","))):
            key, equals, value = (word.strip() for word in part.partition("="))
            if key in OTHER_KEYS:
                raise RequestError(
                    f"ref-image-args {key}: belongs to models that read pictures with a language "
                    "model, Kontext has none; leave it out"
                )
            change = _READERS.get(key)
            if change is None or not equals:
                raise RequestError(
                    f"ref-image-args {part!r}: expected KEY=VALUE with {', '.join(_READERS)}"
                )
            options = change(options, value)
        return options


def _resized(options: ReferenceOptions, value: str) -> ReferenceOptions:
    if value.lower() not in YES + NO:
        raise RequestError(f"ref-image-args resize_before_vae={value}: expected true or false")
    return replace(options, resized=value.lower() in YES)


def _max_pixels(options: ReferenceOptions, value: str) -> ReferenceOptions:
    least = TOKEN_PIXELS * TOKEN_PIXELS
    # sd-cli's word for the usual ones
    if value == "0":
        return replace(options, max_pixels=MAX_PIXELS)
    if not value.isdigit() or not least <= int(value) <= MOST_PIXELS:
        raise RequestError(
            f"ref-image-args vae_input_max_pixels={value}: expected {least} to {MOST_PIXELS}"
        )
    return replace(options, max_pixels=int(value))


def _index(options: ReferenceOptions, value: str) -> ReferenceOptions:
    if value not in get_args(IndexMode):
        raise RequestError(
            f"ref-image-args ref_index_mode={value}: expected {', '.join(get_args(IndexMode))}"
        )
    return replace(options, index=value)  # type: ignore[arg-type]


def _resizing(options: ReferenceOptions, value: str) -> ReferenceOptions:
    if value not in get_args(Resizing):
        raise RequestError(
            f"ref-image-args resize={value}: expected {' or '.join(get_args(Resizing))}"
        )
    return replace(options, resizing=value)  # type: ignore[arg-type]


_READERS = {
    "resize_before_vae": _resized,
    "vae_input_max_pixels": _max_pixels,
    "ref_index_mode": _index,
    "resize": _resizing,
}


@dataclass(frozen=True, eq=False)
class ReferencePicture:
    """One of them, as the autoencoder reads it."""

    # (h, w, 3) uint8 RGB, sides multiples of 16
    pixels: np.ndarray = field(repr=False)
    # Of its first token: index, row, column
    place: tuple[int, int, int] = (1, 0, 0)

    @property
    def tokens(self) -> int:
        height, width = self.pixels.shape[:2]
        return (height // TOKEN_PIXELS) * (width // TOKEN_PIXELS)

    @cached_property
    def sha256(self) -> str:
        """Of the pixels as they are used, whatever file they came from."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels).tobytes()).hexdigest()


def read_reference_pictures(
    names: Sequence[str], options: ReferenceOptions, width: int, height: int
) -> tuple[ReferencePicture, ...]:
    """The pictures of --ref-image, for a drawing of width x height pixels. Raises InputError."""
    pictures = []
    for name in names:
        image = _decoded(name)
        pictures.append(_fitted(image, name, options, width * height))
    sizes = [picture.shape[:2] for picture in pictures]
    cells = [(height // LATENT_SCALE, width // LATENT_SCALE) for height, width in sizes]
    return tuple(map(ReferencePicture, pictures, places(cells, options.index)))


def drawing_size(name: str) -> tuple[int, int]:
    """(width, height) of a drawing that has the size of a reference: its own up to a megapixel, in
    multiples of 16. Raises InputError.
    """
    width, height = _decoded(name).size
    return reference_size(width, height, min(width * height, MAX_PIXELS))


def reference_size(width: int, height: int, pixels: int) -> tuple[int, int]:
    """Of a picture of width x height pixels, with about so many instead, both multiples of 16."""
    # a whole number under the root, as in sd-cli
    wide = math.sqrt(pixels * width // height)
    high = wide * height / width
    return _whole_tokens(wide), _whole_tokens(high)


def places(cells: Sequence[tuple[int, int]], mode: IndexMode) -> list[tuple[int, int, int]]:
    """Index, row and column of the first token of each reference. cells: latent rows and columns
    of each.

    With one index for all, the next one begins right of those before or below, whichever keeps the
    whole more square; by as many positions as they have latent cells, which is sd-cli's unit.
    """
    index, rows, columns = 1, 0, 0
    found = []
    for height, width in cells:
        row = column = 0
        if mode == "fixed":
            if height + rows > width + columns:
                column = columns
            else:
                row = rows
        elif mode == "decrease":
            index -= 1
        found.append((index, row, column))
        if mode == "increase":
            index += 1
        rows, columns = max(rows, height + row), max(columns, width + column)
    return found


# -------------------------------------------------------------------------------------------- parts


def _decoded(name: str) -> Image.Image:
    data, where = read_source(name, "--ref-image")
    return decode_picture(data, where, FORMATS, "white", to_srgb=True).convert("RGB")


def _fitted(image: Image.Image, name: str, options: ReferenceOptions, pixels: int) -> np.ndarray:
    width, height = image.size
    if not options.resized:
        if width % TOKEN_PIXELS or height % TOKEN_PIXELS:
            raise InputError(
                f"{name}: is {width}x{height} pixels; without resizing a reference has sides that "
                f"are multiples of {TOKEN_PIXELS}"
            )
        return np.array(image)
    size = reference_size(width, height, min(options.max_pixels, pixels))
    if options.resizing == "nearest":
        return nearest_pixels(np.array(image), *size)
    return np.array(image.resize(size, Image.Resampling.LANCZOS) if size != image.size else image)


def nearest_pixels(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """(h, w, 3) -> (height, width, 3), sd-cli's nearest: the pixel at floor(i * own / new size)."""
    rows = np.arange(height) * pixels.shape[0] // height
    columns = np.arange(width) * pixels.shape[1] // width
    return pixels[rows][:, columns]


def _whole_tokens(side: float) -> int:
    return max(math.floor(side / TOKEN_PIXELS + 0.5), 1) * TOKEN_PIXELS
