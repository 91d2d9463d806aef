"""How finished pictures are enlarged by a model of its own: which file, how often, in what tiles.
Reads no file. Imports no torch.

Source of the names and the defaults: leejet/stable-diffusion.cpp 97d29908
examples/common/common.cpp (`--upscale-model` and its companions).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pulid_generate.errors import RequestError

# sd-cli's: of the side of a tile
OVERLAP = 0.25
MIN_TILE, MAX_TILE = 32, 4096
MAX_REPEATS = 8
# Pixels of a side; WebP's limit, so that every format can hold what comes out
MAX_SIDE = 16_383


@dataclass(frozen=True, kw_only=True)
class UpscaleSettings:
    """One file, for all pictures. Raises RequestError when built from impossible values."""

    path: Path
    # How often, each time over what came out of the last
    repeats: int = 1
    # Side of a tile, in pixels of what goes in
    tile: int = 128

    def __post_init__(self) -> None:
        if not 1 <= self.repeats <= MAX_REPEATS:
            raise RequestError(f"upscale-repeats {self.repeats}: expected 1 to {MAX_REPEATS}")
        check_tile(self.tile, "upscale-tile-size")

    def size_of(self, width: int, height: int, scale: int) -> tuple[int, int]:
        """(width, height) of what comes out of a picture, by a model that enlarges `scale` times.
        Raises RequestError for more than a file can hold.
        """
        factor = scale**self.repeats
        if max(width, height) * factor > MAX_SIDE:
            raise RequestError(
                f"upscale-model {self.path.name}: {width}x{height}, {factor} times as large, is "
                f"more than {MAX_SIDE} pixels a side; draw smaller, or give fewer "
                "--upscale-repeats"
            )
        return width * factor, height * factor


def check_tile(side: int, flag: str) -> None:
    """Raise RequestError for tiles that are too small or too large."""
    if not MIN_TILE <= side <= MAX_TILE:
        raise RequestError(f"{flag} {side}: expected {MIN_TILE} to {MAX_TILE} pixels")
