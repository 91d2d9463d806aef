"""Latents as Flux reads them: tokens of 2x2 cells, and their positions.

Source: black-forest-labs/flux src/flux/sampling.py (`prepare`, `unpack`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pulid_generate.files.layouts import PATCH, TOKEN_PIXELS


def token_count(width: int, height: int) -> int:
    """Image tokens of a picture of width x height pixels."""
    return (width // TOKEN_PIXELS) * (height // TOKEN_PIXELS)


def pack(latents: Tensor) -> Tensor:
    """(B, 16, h, w) -> (B, (h/2)(w/2), 64), channels slowest within a token: "b c (h ph) (w pw) ->
    b (h w) (c ph pw)".
    """
    b, c, h, w = latents.shape
    return (
        latents.reshape(b, c, h // PATCH, PATCH, w // PATCH, PATCH)
        .permute(0, 2, 4, 1, 3, 5)
        .reshape(b, -1, c * PATCH * PATCH)
    )


def unpack(packed: Tensor, width: int, height: int) -> Tensor:
    """The inverse of `pack` for a picture of width x height pixels: (B, L, 64) -> (B, 16, height/8,
    width/8).
    """
    rows, columns = height // TOKEN_PIXELS, width // TOKEN_PIXELS
    x = packed.reshape(packed.shape[0], rows, columns, -1, PATCH, PATCH)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(packed.shape[0], -1, rows * PATCH, columns * PATCH)


def position_ids(width: int, height: int, place: tuple[int, int, int] = (0, 0, 0)) -> Tensor:
    """Rotary positions of the image tokens, (L, 3) float32: (0, row, column).

    place: of the first token.
    """
    rows, columns = height // TOKEN_PIXELS, width // TOKEN_PIXELS
    grid = torch.zeros(rows, columns, 3)
    grid[..., 1] = torch.arange(rows)[:, None]
    grid[..., 2] = torch.arange(columns)[None, :]
    return grid.reshape(-1, 3) + torch.tensor(place)
