"""TODO"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    pass
from pulid_generate.request.tiling import Tiling


def tile_starts(length: int, tile: int, overlap: float) -> tuple[list[tuple[int, int]], int]:
    """Where tiles begin along one axis of `length` latent cells, and how many cells they share.

    Returns [(start, cells of its front that its neighbour keeps), ..] and the width of a blend.
    sd-cli's rule: the tiles are spread so that they end at the border, with the overlap nearest to
    the one asked for; the last is moved back, and its front is left out.
    """
    if length <= tile:
        return [(0, 0)], 0
    shared = int(tile * overlap)
    stride = tile - shared
    count = (length - shared) // stride
    overshoot = ((count + 1) * stride + shared) % length
    if overshoot != stride and overshoot <= count * (tile // 2 - shared):
        count += 1  # room for one more tile with less than half of it shared
    factor = (
        (2 * tile - length) / tile if count <= 2 else (tile * count - length) / (tile * (count - 1))
    )
    shared = int(tile * factor)
    starts = []
    for start in range(0, length, tile - shared):
        if start + tile >= length:
            starts.append((length - tile, start - (length - tile)))
            break
        starts.append((start, 0))
    return starts, shared


def tiled(
    apply: Callable[[Tensor], Tensor], x: Tensor, tiling: Tiling, grow: int, shrink: int
) -> Tensor:
    """`apply` over tiles of x (1, C, h, w), blended, float32. grow, shrink: pixels per latent cell,
    out of `apply` and into it.
    """
    rows, columns = x.shape[2] // shrink, x.shape[3] // shrink
    tops, shared_rows = tile_starts(rows, tiling.height, tiling.overlap)
    lefts, shared_columns = tile_starts(columns, tiling.width, tiling.overlap)
    height, width = min(tiling.height, rows), min(tiling.width, columns)
    whole = None
    for top, skip_rows in tops:
        down = _ramp(
            height * grow, skip_rows * grow, shared_rows * grow, top > 0, top + height < rows
        ).to(x.device)
        for left, skip_columns in lefts:
            across = _ramp(
                width * grow,
                skip_columns * grow,
                shared_columns * grow,
                left > 0,
                left + width < columns,
            ).to(x.device)
            tile = apply(
                x[
                    :,
                    :,
                    top * shrink : (top + height) * shrink,
                    left * shrink : (left + width) * shrink,
                ]
            )
            if whole is None:
                whole = tile.new_zeros(1, tile.shape[1], rows * grow, columns * grow)
            y, z = top * grow, left * grow
            whole[:, :, y : y + height * grow, z : z + width * grow] += (
                tile * down[:, None] * across
            )
    assert whole is not None  # there is at least one tile
    return whole


def _ramp(length: int, skip: int, shared: int, before: bool, after: bool) -> Tensor:
    """Weights of one tile along an axis, (length,): smoothly from 0 to 1 where it meets a
    neighbour, and the two always add up to 1.
    """
    index = torch.arange(length, dtype=torch.float32)
    weight = torch.ones(length)
    if shared and before:
        weight = torch.minimum(weight, (index - skip) / shared)
    if shared and after:
        weight = torch.minimum(weight, (length - index) / shared)
    weight = weight.clamp(0, 1)
    weight = weight**3 * (weight * (6 * weight - 15) + 10)
    weight[:skip] = 0
    return weight
