"""Who pictures are compared with, and by what: what `pulid-extract score` is asked. Imports no
torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer


@dataclass(frozen=True, kw_only=True)
class LikenessFlags:
    """Flags as typed; `likeness.Scorer` takes them."""

    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            metavar="PICTURE",
            help="Picture of the person, whose largest face counts; repeat for more. Scores are made by 'pulid-extract score'. Of a folder "
            "(batch), the picture called like the identity's file.",
        ),
    ] = None
    stranger: Annotated[
        list[str] | None,
        typer.Option(
            "--stranger",
            metavar="PICTURE",
            help="Picture of somebody else, as a control; repeat for more.",
        ),
    ] = None
    recognizer: Annotated[
        str | None,
        typer.Option(
            "--recognizer",
            metavar="FILE.onnx",
            help="Another ArcFace-shaped network as the judge, because the one that PuLID is conditioned on flatters itself. Default: "
            "antelopev2's.",
        ),
    ] = None
    antelopev2: Annotated[
        str | None,
        typer.Option(
            "--antelopev2",
            metavar="FOLDER",
            help="InsightFace's antelopev2 pack, which finds and recognises faces.",
        ),
    ] = None
    det_threshold: Annotated[
        float | None,
        typer.Option(
            "--det-threshold",
            metavar="S",
            help="Score from which something is a face, 0 to 1. Default: 0.5.",
        ),
    ] = None
