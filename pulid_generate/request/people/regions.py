"""Where in the picture a person is: a box or a mask, as one weight per image token.

Pure: pixels in, numbers out. Knows nothing of identities, models or steps, and imports no torch.

A token is a cell of 16 x 16 pixels, row by row, as Flux reads them. Its coverage is the mean of the
mask over its pixels. The soft edge lies inside: zero is exactly where the box or the mask does not
touch a token at all, and nothing of the person is added there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pulid_extract.shared.picture_file import (
    PictureFormats,
    decode_grey,
    name_of,
    read_picture_bytes,
)
from pulid_generate.errors import InputError, RequestError
from pulid_generate.files.layouts import TOKEN_PIXELS

FORMATS = PictureFormats(("PNG",), "PNG")
JPEG_START = b"\xff\xd8\xff"
# Tokens inside the edge that are weaker: at a straight edge the outermost has 2/3
FEATHER = 1


def box_region(
    box: tuple[int, int, int, int], width: int, height: int, where: str = "box"
) -> np.ndarray:
    """Weights (L,) float32 in [0, 1] for a box of X, Y, W, H pixels in a picture of width x height,
    multiples of 16.

    What lies outside the picture is cut off. Raises RequestError if nothing is left.
    """
    x, y, w, h = box
    columns, rows = _covered(x, w, width), _covered(y, h, height)
    coverage = np.outer(rows, columns)
    if not coverage.any():
        raise RequestError(
            f"{where} {x},{y},{w},{h}: covers nothing of the picture, "
            f"which has {width}x{height} pixels"
        )
    return _softened(coverage)


def mask_region(path: str | Path, width: int, height: int, where: str = "mask") -> np.ndarray:
    """Weights (L,) float32 in [0, 1] for a PNG of width x height pixels, white where the person is;
    grey is in between.

    Transparent pixels count as black. Raises InputError if it cannot be read, is not a PNG, has
    another size or covers nothing.
    """
    pixels = _read_mask(path, width, height, f"{where} {path}")
    cells = pixels.reshape(
        height // TOKEN_PIXELS, TOKEN_PIXELS, width // TOKEN_PIXELS, TOKEN_PIXELS
    )
    coverage = cells.mean(axis=(1, 3))
    if not coverage.any():
        raise InputError(
            f"{where} {path}: is black all over, so it covers nothing; "
            "paint the person's place white"
        )
    return _softened(coverage)


def share_overlaps(regions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Regions (L,) of several people, scaled down where their sum is more than 1, so that it is 1
    there.

    Two people at full weight on one token would draw neither: the sum of two identities, twice as
    strong as any that the layers have seen. Shared, the place belongs to each in part.
    """
    total = np.maximum(np.sum(regions, axis=0), 1)
    return [(region / total).astype(np.float32) for region in regions]


def _covered(start: int, length: int, size: int) -> np.ndarray:
    """Share of every 16-pixel cell of 0..size that start..start+length covers: (size/16,)
    float64.
    """
    edges = np.clip(np.arange(0, size + 1, TOKEN_PIXELS), start, start + length)
    return np.diff(edges) / TOKEN_PIXELS


def _softened(coverage: np.ndarray) -> np.ndarray:
    """Coverage (rows, columns) -> weights (L,) float32: the mean over the neighbours within
    FEATHER, never more than the coverage.

    Beyond the picture's border the region goes on, so that it fades at its own edges only. The
    strongest token keeps its coverage: a region of few tokens would else be faint all over.
    """
    side = 2 * FEATHER + 1
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(coverage, FEATHER, mode="edge"), (side, side)
    )
    soft = np.minimum(coverage, windows.mean(axis=(-2, -1)))
    return np.minimum(coverage, soft * (coverage.max() / soft.max())).astype(np.float32).ravel()


def _read_mask(path: str | Path, width: int, height: int, where: str) -> np.ndarray:
    """(height, width) float64 in [0, 1]."""
    try:
        data = read_picture_bytes(path, "mask=", FORMATS)
        pixels = None
        if not data.startswith(JPEG_START):
            pixels = decode_grey(data, where, FORMATS)
    except InputError as error:
        # bytes that were never read have a name of their own
        message = str(error).removeprefix(f"{name_of(path)}: ").removeprefix(f"{where}: ")
        raise InputError(
            f"{where}: cannot be read as a PNG ({message}); give one of {width}x{height} pixels, "
            "white where the person is"
        ) from None
    if pixels is None:
        # the noise around an edge would leave traces of the person outside
        raise InputError(f"{where}: is JPEG, expected PNG; a mask must keep its black exactly")
    if pixels.shape != (height, width):
        raise InputError(
            f"{where}: has {pixels.shape[1]}x{pixels.shape[0]} pixels, "
            f"the picture {width}x{height}; make the mask in the picture's size"
        )
    return pixels
