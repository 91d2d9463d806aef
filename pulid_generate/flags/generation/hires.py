"""The second, larger pass. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from pulid_generate.flags.generation.drawing import number_list
from pulid_generate.request.passes.hires import UPSCALERS


@dataclass(frozen=True, kw_only=True)
class HiresFlags:
    """How the drawn picture is enlarged, and drawn again in that size."""

    HEADING = "Larger, in a second pass"

    hires: Annotated[
        bool,
        typer.Option(
            "--hires",
            help="Enlarge the drawn picture and denoise it again in that size, with everybody in "
            "it at their place.",
        ),
    ] = False
    hires_scale: Annotated[
        float,
        typer.Option(
            "--hires-scale",
            metavar="N",
            help="By how much the sides grow, up to the next multiple of 16.",
        ),
    ] = 2.0
    hires_width: Annotated[
        int,
        typer.Option(
            "--hires-width",
            metavar="PIXELS",
            help="Size of the second pass in place of --hires-scale; without --hires-height it is "
            "a square. A multiple of 16.",
        ),
    ] = 0
    hires_height: Annotated[
        int, typer.Option("--hires-height", metavar="PIXELS", help="The same.")
    ] = 0
    hires_upscaler: Annotated[
        str,
        typer.Option(
            "--hires-upscaler",
            metavar="NAME",
            help=f"What enlarges it: {', '.join(UPSCALERS)}, or a model of --hires-upscalers-dir "
            "by its name. Those called Latent work on the latent, the others on the decoded "
            "picture.",
        ),
    ] = "Latent"
    hires_upscalers_dir: Annotated[
        str | None,
        typer.Option(
            "--hires-upscalers-dir",
            metavar="FOLDER",
            help="Models that --hires-upscaler may name: ESRGAN and what else spandrel (the extra "
            "upscale) reads, .safetensors or .pth.",
        ),
    ] = None
    hires_upscale_tile_size: Annotated[
        int,
        typer.Option(
            "--hires-upscale-tile-size",
            metavar="PIXELS",
            help="Side of the tiles that such a model works in.",
        ),
    ] = 128
    hires_steps: Annotated[
        int,
        typer.Option(
            "--hires-steps",
            metavar="N",
            help="Steps of the second pass, one more where strength rounds; 0: those of the first.",
        ),
    ] = 0
    hires_denoising_strength: Annotated[
        float,
        typer.Option(
            "--hires-denoising-strength",
            metavar="0.01..1",
            help="How much of the enlarged picture is redrawn.",
        ),
    ] = 0.7
    hires_sigmas: Annotated[
        str | None,
        typer.Option(
            "--hires-sigmas",
            metavar="S,S,..,0",
            callback=number_list,
            help="The whole schedule of the second pass by hand, in place of its steps and "
            "strength.",
        ),
    ] = None
