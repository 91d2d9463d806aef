"""A map computed in overlapping tiles that are blended: where tiles lie, and how much each counts.

Knows tensors, and no autoencoder. Repeats sd-cli, so that its pictures can be repeated.

Source: leejet/stable-diffusion.cpp src/runtime/tiling.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pulid_generate.request.tiling import Tiling


@dataclass(frozen=True)
class _Axis:
    """The tiles along one axis, in latent cells."""

    # of the whole and of a tile
    length: int
    tile: int
    # (start, cells of its front that its neighbour keeps) of each tile
    starts: list[tuple[int, int]]
    # width of a blend
    shared: int

    @classmethod
    def of(cls, length: int, tile: int, overlap: float) -> _Axis:
        starts, shared = tile_starts(length, tile, overlap)
        return cls(length, min(tile, length), starts, shared)

    def weights(self, index: int, scale: int) -> Tensor:
        """Of one tile, (tile * scale,)."""
        start, skip = self.starts[index]
        before, after = start > 0, start + self.tile < self.length
        return _ramp(self.tile * scale, skip * scale, self.shared * scale, before, after)


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
        # room for one more tile with less than half of it shared
        count += 1
    if count <= 2:
        factor = (2 * tile - length) / tile
    else:
        factor = (tile * count - length) / (tile * (count - 1))
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
    """`apply` over tiles of x (1, C, h, w), blended, float32 (1, C', h * grow / shrink,
    w * grow / shrink).

    grow, shrink: pixels per latent cell, out of `apply` and into it.
    """
    rows = _Axis.of(x.shape[2] // shrink, tiling.height, tiling.overlap)
    columns = _Axis.of(x.shape[3] // shrink, tiling.width, tiling.overlap)
    whole: Tensor | None = None
    for row, (top, _) in enumerate(rows.starts):
        down = rows.weights(row, grow).to(x.device)
        band = x[:, :, top * shrink : (top + rows.tile) * shrink]
        for column, (left, _) in enumerate(columns.starts):
            across = columns.weights(column, grow).to(x.device)
            tile = apply(band[..., left * shrink : (left + columns.tile) * shrink])
            if whole is None:
                shape = (1, tile.shape[1], rows.length * grow, columns.length * grow)
                whole = tile.new_zeros(shape)
            part = whole[:, :, top * grow : (top + rows.tile) * grow]
            part = part[..., left * grow : (left + columns.tile) * grow]
            part += tile * down[:, None] * across
    assert whole is not None  # there is at least one tile
    return whole


def _ramp(length: int, skip: int, shared: int, before: bool, after: bool) -> Tensor:
    """Weights of one tile along an axis, (length,): smoothly from 0 to 1 where it meets a
    neighbour, and the two always add up to 1.

    skip: numbers at the front that the neighbour keeps. shared: width of the blend. before, after:
    whether there is a neighbour.
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
