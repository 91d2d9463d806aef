"""The second pass over the faces of a picture. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer


@dataclass(frozen=True, kw_only=True)
class DetailFlags:
    """Which faces are found and redrawn, and how."""

    HEADING = "Faces, redrawn"

    ad_model: Annotated[
        str | None,
        typer.Option(
            "--ad-model",
            metavar="antelopev2|FOLDER",
            help="Redraw each face of the finished picture by itself, larger and with its person's "
            "identity (in sd-cli a YOLOv8 file, and without the identity). Faces are found by "
            "pulid-extract with antelopev2, of the models folder or of the FOLDER.",
        ),
    ] = None
    ad_prompt: Annotated[
        str,
        typer.Option(
            "--ad-prompt",
            metavar="TEXT",
            help="What the faces are redrawn with; [PROMPT] is the picture's prompt, [SEP] stands "
            "between those of several faces, [SKIP] leaves a face as it is. Default: the "
            "picture's prompt.",
        ),
    ] = ""
    ad_negative_prompt: Annotated[
        str,
        typer.Option(
            "--ad-negative-prompt",
            metavar="TEXT",
            help="The same for the negative prompt.",
        ),
    ] = ""
    extra_ad_args: Annotated[
        str,
        typer.Option(
            "--extra-ad-args",
            metavar="KEY=VALUE,..",
            help="sd-cli's keys: denoising_strength (0.4), inpaint_width and inpaint_height (512, "
            "less in a smaller picture), inpaint_padding (32), mask_blur (4), dilate_erode (4), "
            "steps, cfg_scale, sample_method, scheduler, confidence, max_detections, "
            "mask_k_largest, mask_min_ratio, mask_max_ratio, x_offset, y_offset, sort_by.",
        ),
    ] = ""
