"""Who pictures are compared with, and by what: what `pulid-extract score` is asked. And how many
seeds are tried for the likeliest. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

# each is a picture to score and a line on standard error
MOST_SEEDS = 1000


@dataclass(frozen=True, kw_only=True)
class LikenessFlags:
    """What a `pictures.scorer.Scorer` is made of."""

    HEADING = "Likeness"

    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            metavar="PICTURE",
            help="Picture of the person, whose largest face counts; repeat for more. Scores are "
            "made by 'pulid-extract score'. Of a folder "
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
        list[str] | None,
        typer.Option(
            "--recognizer",
            metavar="FILE.onnx",
            help="Another ArcFace-shaped network as the judge, because the one that PuLID is "
            "conditioned on flatters itself; repeat for more, the first one counts. 'antelopev2' "
            "stands for the pack's own, the default.",
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


@dataclass(frozen=True, kw_only=True)
class BestOfFlags:
    """How many seeds are tried, and what becomes of the pictures that are not kept."""

    HEADING = "Best of several seeds"

    best_of: Annotated[
        int | None,
        typer.Option(
            "--best-of",
            metavar="N",
            min=2,
            max=MOST_SEEDS,
            help="Draw seeds seed, seed+1, .. and keep the picture whose face is most like "
            "--reference; the others are listed.",
        ),
    ] = None
    keep_others: Annotated[
        str | None,
        typer.Option(
            "--keep-others",
            metavar="FOLDER",
            help="Also write the others of --best-of, named by their seeds. Default: they are "
            "dropped, a seed draws them again.",
        ),
    ] = None
