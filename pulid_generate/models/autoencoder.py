"""The autoencoder's two ways: latents -> uint8 pictures, and back. Whole, or in tiles that fit the memory.

Knows nothing of where latents come from or where pictures go.

Sources: black-forest-labs/flux src/flux/modules/autoencoder.py (scale and shift); leejet/stable-diffusion.cpp, whose pictures are goldens:
the rounding, src/runtime/tiling.cpp (where tiles lie and how they are blended), src/model/vae/auto_encoder_kl.hpp (the encoder's noise).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pulid_generate.errors import CheckpointError, InputError, RequestError

if TYPE_CHECKING:
    import numpy as np

SCALE = 8  # pixels per latent cell
MIN_TILE, MAX_OVERLAP = 4, 0.5  # sd-cli's limits


@dataclass(frozen=True)
class Tiling:
    """Size of a tile in latent cells, and the share of it that neighbours overlap at least. Defaults: sd-cli's."""

    width: int = 32
    height: int = 32
    overlap: float = 0.5

    def __post_init__(self) -> None:
        if min(self.width, self.height) < MIN_TILE:
            raise RequestError(
                f"vae-tile-size {self.width}x{self.height}: expected at least {MIN_TILE}x{MIN_TILE} latent cells of {SCALE} pixels"
            )
        if not 0 <= self.overlap <= MAX_OVERLAP:
            raise RequestError(f"vae-tile-overlap {self.overlap:g}: expected 0 to {MAX_OVERLAP}")

    @classmethod
    def parse(cls, size: str = "32x32", overlap: float = 0.5) -> Tiling:
        """From sd-cli's words, "32x48" or "32" for both sides. Raises RequestError."""
        sides = size.lower().split("x")
        if len(sides) not in (1, 2) or not all(side.isdecimal() for side in sides):
            raise RequestError(f"vae-tile-size {size!r}: expected WIDTHxHEIGHT or one number, in latent cells, such as 32x32")
        return cls(int(sides[0]), int(sides[-1]), overlap)


def decode(vae: Any, latents: Tensor, *, tiling: Tiling | None = None) -> np.ndarray:
    """vae: a diffusers AutoencoderKL. latents (1, 16, H/8, W/8), as the denoise loop leaves them -> (H, W, 3) uint8 RGB.

    tiling: decode overlapping tiles, blended: a fraction of the memory, and slightly other pixels.
    Raises CheckpointError if the picture is not finite.
    """
    scaled = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor

    def apply(tile: Tensor) -> Tensor:
        return vae.decode(tile, return_dict=False)[0].float()

    with torch.inference_mode():
        image = (apply(scaled) if tiling is None else _tiled(apply, scaled, tiling, SCALE, 1))[0]
    if not torch.isfinite(image).all():
        raise CheckpointError(
            "the autoencoder gave NaN or infinite pixels; a damaged file, or float16 where --dtype bfloat16 is needed"
        )
    return ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def encode(vae: Any, image: np.ndarray, *, noise: Tensor | None = None, tiling: Tiling | None = None) -> Tensor:
    """vae: a diffusers AutoencoderKL. image (H, W, 3) uint8 RGB, sides multiples of 8 -> latents (1, 16, H/8, W/8), float32, on the CPU.

    noise: standard normal latents that choose a sample of what the encoder allows, as sd-cli draws one; None takes the mean.
    The inverse of `decode`, as far as the autoencoder is one. Raises InputError for other sides, CheckpointError if not finite.
    """
    height, width = image.shape[:2]
    if height % SCALE or width % SCALE:
        raise InputError(f"the picture to start from is {width}x{height} pixels; the autoencoder takes multiples of {SCALE}")
    pixels = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1).to(vae.device, vae.dtype)

    def apply(tile: Tensor) -> Tensor:
        return vae.encode(tile, return_dict=False)[0].parameters.float()  # mean and log variance, (1, 32, h, w)

    with torch.inference_mode():
        moments = (apply(pixels) if tiling is None else _tiled(apply, pixels, tiling, 1, SCALE)).cpu()
        mean, log_variance = moments.chunk(2, dim=1)
        latents = mean if noise is None else mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise
    if not torch.isfinite(latents).all():
        raise CheckpointError(
            "the autoencoder gave NaN or infinite latents; a damaged file, or float16 where --dtype bfloat16 is needed"
        )
    return (latents - vae.config.shift_factor) * vae.config.scaling_factor


# -------------------------------------------------------------------------------------------------------------------- tiles


def tile_starts(length: int, tile: int, overlap: float) -> tuple[list[tuple[int, int]], int]:
    """Where tiles begin along one axis of `length` latent cells, and how many cells they share.

    Returns [(start, cells of its front that its neighbour keeps), ..] and the width of a blend. sd-cli's rule: the tiles are spread so that
    they end at the border, with the overlap nearest to the one asked for; the last is moved back, and its front is left out.
    """
    if length <= tile:
        return [(0, 0)], 0
    shared = int(tile * overlap)
    stride = tile - shared
    count = (length - shared) // stride
    overshoot = ((count + 1) * stride + shared) % length
    if overshoot != stride and overshoot <= count * (tile // 2 - shared):
        count += 1  # room for one more tile with less than half of it shared
    factor = (2 * tile - length) / tile if count <= 2 else (tile * count - length) / (tile * (count - 1))
    shared = int(tile * factor)
    starts = []
    for start in range(0, length, tile - shared):
        if start + tile >= length:
            starts.append((length - tile, start - (length - tile)))
            break
        starts.append((start, 0))
    return starts, shared


def _tiled(apply: Callable[[Tensor], Tensor], x: Tensor, tiling: Tiling, grow: int, shrink: int) -> Tensor:
    """`apply` over tiles of x (1, C, h, w), blended, float32. grow, shrink: pixels per latent cell, out of `apply` and into it."""
    rows, columns = x.shape[2] // shrink, x.shape[3] // shrink
    tops, shared_rows = tile_starts(rows, tiling.height, tiling.overlap)
    lefts, shared_columns = tile_starts(columns, tiling.width, tiling.overlap)
    height, width = min(tiling.height, rows), min(tiling.width, columns)
    whole = None
    for top, skip_rows in tops:
        down = _ramp(height * grow, skip_rows * grow, shared_rows * grow, top > 0, top + height < rows).to(x.device)
        for left, skip_columns in lefts:
            across = _ramp(width * grow, skip_columns * grow, shared_columns * grow, left > 0, left + width < columns).to(
                x.device
            )
            tile = apply(x[:, :, top * shrink : (top + height) * shrink, left * shrink : (left + width) * shrink])
            if whole is None:
                whole = tile.new_zeros(1, tile.shape[1], rows * grow, columns * grow)
            y, z = top * grow, left * grow
            whole[:, :, y : y + height * grow, z : z + width * grow] += tile * down[:, None] * across
    assert whole is not None  # there is at least one tile
    return whole


def _ramp(length: int, skip: int, shared: int, before: bool, after: bool) -> Tensor:
    """Weights of one tile along an axis, (length,): smoothly from 0 to 1 where it meets a neighbour, and the two always add up to 1."""
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
