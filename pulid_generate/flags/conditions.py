"""Pictures that a drawing is conditioned on. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer


@dataclass(frozen=True, kw_only=True)
class ReferenceFlags:
    """Pictures that FLUX.1 Kontext reads beside the one it draws."""

    HEADING = "Reference pictures (FLUX.1 Kontext)"

    ref_image: Annotated[
        list[str] | None,
        typer.Option(
            "--ref-image",
            "-r",
            metavar="FILE",
            help="What the prompt speaks of, for FLUX.1 Kontext; may be given several times. "
            "Without -W and -H the picture gets the first one's shape.",
        ),
    ] = None
    ref_image_args: Annotated[
        str,
        typer.Option(
            "--ref-image-args",
            metavar="KEY=VALUE,..",
            help="resize_before_vae (true), vae_input_max_pixels (1048576), ref_index_mode (fixed, "
            "increase, decrease), resize (antialiased, or sd-cli's nearest).",
        ),
    ] = ""
    increase_ref_index: Annotated[
        bool,
        typer.Option(
            "--increase-ref-index",
            help="Tell several references apart by index, not by place: ref_index_mode=increase.",
        ),
    ] = False
    disable_auto_resize_ref_image: Annotated[
        bool,
        typer.Option(
            "--disable-auto-resize-ref-image",
            help="References keep their size, in multiples of 16: resize_before_vae=false.",
        ),
    ] = False
    kontext: Annotated[
        bool,
        typer.Option(
            "--kontext",
            help="The Flux file is FLUX.1 Kontext, whatever it is called; its tensors do not tell.",
        ),
    ] = False
