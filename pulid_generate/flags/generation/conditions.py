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


@dataclass(frozen=True, kw_only=True)
class ControlFlags:
    """ControlNets: edges, depth or a pose that the picture keeps to."""

    HEADING = "ControlNet"

    control_net: Annotated[
        list[str] | None,
        typer.Option(
            "--control-net",
            metavar="FILE|FOLDER",
            help="A ControlNet of Flux (InstantX's, Shakker's, XLabs'); may be given several "
            "times, each with its --control-image. Options below count in the same order; one "
            "holds for all.",
        ),
    ] = None
    control_image: Annotated[
        list[str] | None,
        typer.Option("--control-image", metavar="FILE", help="What it reads."),
    ] = None
    control_strength: Annotated[
        list[str] | None,
        typer.Option("--control-strength", metavar="S", help="How strongly. Default: 0.9."),
    ] = None
    control_mode: Annotated[
        list[str] | None,
        typer.Option(
            "--control-mode",
            metavar="NAME|N",
            help="Of a union: canny, tile, depth, blur, pose, gray, low-quality, or a number.",
        ),
    ] = None
    control_start: Annotated[
        list[str] | None,
        typer.Option(
            "--control-start", metavar="SHARE", help="From this share of the steps on. Default: 0."
        ),
    ] = None
    control_end: Annotated[
        list[str] | None,
        typer.Option(
            "--control-end", metavar="SHARE", help="Up to this share of the steps. Default: 1."
        ),
    ] = None
    canny: Annotated[
        bool,
        typer.Option(
            "--canny",
            help="Reduce --control-image to its edges first; of several, where one has "
            "--control-mode canny, only that.",
        ),
    ] = False
