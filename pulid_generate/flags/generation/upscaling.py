"""A model that enlarges the finished pictures. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer


@dataclass(frozen=True, kw_only=True)
class UpscalingFlags:
    """Which model, how often, and in what tiles."""

    HEADING = "Larger, by an upscaler"

    upscale_model: Annotated[
        str | None,
        typer.Option(
            "--upscale-model",
            metavar="FILE",
            help="Enlarge every finished picture by this network: ESRGAN and what else spandrel "
            "(the extra upscale) reads, .safetensors or .pth.",
        ),
    ] = None
    upscale_repeats: Annotated[
        int,
        typer.Option("--upscale-repeats", metavar="N", help="How often, one after the other."),
    ] = 1
    upscale_tile_size: Annotated[
        int,
        typer.Option(
            "--upscale-tile-size",
            metavar="PIXELS",
            help="Side of the tiles that it works in; smaller takes less memory.",
        ),
    ] = 128
