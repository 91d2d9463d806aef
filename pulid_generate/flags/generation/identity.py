"""Who is in the picture, how strongly, and when. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer


@dataclass(frozen=True, kw_only=True)
class IdentityFlags:
    """The people, and the schedule of their weight."""

    HEADING = "People"

    pulid_id_embedding: Annotated[
        str | None,
        typer.Option(
            "--pulid-id-embedding",
            metavar="FILE|-",
            help="The person: a .pulidembd; - reads standard input.",
        ),
    ] = None
    pulid_id_weight: Annotated[
        float,
        typer.Option(
            "--pulid-id-weight",
            metavar="W",
            help="How strongly the person shows; 0 draws as without one, 0.7 to 1.2 are usual.",
        ),
    ] = 1.0
    identity: Annotated[
        list[str] | None,
        typer.Option(
            "--identity",
            metavar="FILE[,KEY=VALUE..]",
            help="One of several people: "
            "FILE[,weight=W][,box=X,Y,W,H|,mask=PNG][,start=N][,end=N]; may be given "
            "several times. A box (pixels) or a mask (white) confines the person; without "
            "either, several files are portraits of one person.",
        ),
    ] = None
    identity_fusion: Annotated[
        Literal["concat", "mean"],
        typer.Option(
            "--identity-fusion",
            help="How several embeddings of one person become one: all their tokens, or the mean.",
        ),
    ] = "concat"
    id_start_step: Annotated[
        str,
        typer.Option(
            "--id-start-step",
            metavar="N|SHARE",
            help="First step that sees the identity, from 0, or a share of the steps such as "
            "0.2. Later: less likeness, more freedom (the reference's app: 4 for "
            "photographs, 0 or 1 for stylised pictures).",
        ),
    ] = "0"
    id_end_step: Annotated[
        str | None,
        typer.Option(
            "--id-end-step",
            metavar="N|SHARE",
            help="First step that no longer sees the identity. Default: none.",
        ),
    ] = None
    id_weight_schedule: Annotated[
        str | None,
        typer.Option(
            "--id-weight-schedule",
            metavar="STEP:W,..",
            help='Factors on the weight, each from its step on, such as "0:0,4:1,16:0.6".',
        ),
    ] = None
    id_weight_double: Annotated[
        float,
        typer.Option(
            "--id-weight-double", metavar="W", help="Factor on the weight in the double blocks."
        ),
    ] = 1.0
    id_weight_single: Annotated[
        float,
        typer.Option(
            "--id-weight-single", metavar="W", help="Factor on the weight in the single blocks."
        ),
    ] = 1.0
    negative_id: Annotated[
        Literal["uncond", "same", "none"],
        typer.Option(
            "--negative-id",
            help="Identity of the negative branch of true CFG: the file's unconditional one (the "
            "reference), the same one (sd-cli), none.",
        ),
    ] = "uncond"
