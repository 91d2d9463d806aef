"""Previews of a picture in work. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer


@dataclass(frozen=True, kw_only=True)
class PreviewFlags:
    """Whether the latents are shown while they are denoised, how, and where."""

    HEADING = "Preview"

    preview: Annotated[
        Literal["none", "proj", "tae", "vae"],
        typer.Option(
            "--preview",
            help="Show what the picture would come to: proj, a colour for each latent cell; tae, "
            "by --tae; vae, by the autoencoder, which then stays loaded.",
        ),
    ] = "none"
    preview_path: Annotated[
        str,
        typer.Option(
            "--preview-path", metavar="FILE", help="The picture that is written again and again."
        ),
    ] = "./preview.png"
    preview_interval: Annotated[
        int,
        typer.Option(
            "--preview-interval", metavar="N", min=1, help="Steps from one preview to the next."
        ),
    ] = 1
    preview_noisy: Annotated[
        bool,
        typer.Option(
            "--preview-noisy", help="Show what goes into a step instead of what it would come to."
        ),
    ] = False
