"""Tiles of the autoencoder: their size and their overlap, as sd-cli names them. Pure numbers."""

from __future__ import annotations

from dataclasses import dataclass

from pulid_generate.errors import RequestError
from pulid_generate.files.layouts import LATENT_SCALE

# sd-cli's limits
MIN_TILE, MAX_OVERLAP = 4, 0.5


@dataclass(frozen=True)
class Tiling:
    """Size of a tile in latent cells, and the share of it that neighbours overlap at least.
    Defaults: sd-cli's.
    """

    width: int = 32
    height: int = 32
    overlap: float = 0.5

    def __post_init__(self) -> None:
        if min(self.width, self.height) < MIN_TILE:
            raise RequestError(
                f"vae-tile-size {self.width}x{self.height}: "
                f"expected at least {MIN_TILE}x{MIN_TILE} latent cells of {LATENT_SCALE} pixels"
            )
        if not 0 <= self.overlap <= MAX_OVERLAP:
            raise RequestError(f"vae-tile-overlap {self.overlap:g}: expected 0 to {MAX_OVERLAP}")

    @classmethod
    def parse(cls, size: str = "32x32", overlap: float = 0.5) -> Tiling:
        """From sd-cli's words, "32x48" or "32" for both sides. Raises RequestError."""
        sides = size.lower().split("x")
        if len(sides) not in (1, 2) or not all(map(_is_side, sides)):
            raise RequestError(
                f"vae-tile-size {size[:80]!r}: expected WIDTHxHEIGHT or one number, in latent "
                "cells, such as 32x32"
            )
        return cls(int(sides[0]), int(sides[-1]), overlap)


def _is_side(text: str) -> bool:
    # thousands of digits are a number that Python refuses to read
    return text.isdecimal() and len(text) <= 6
