"""The flags of `pulid-extract faces`. Knows nothing of what they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from pulid_extract.flags.groups import AntelopeFlags, DetectFlags, SayFlags
from pulid_extract.shared.cli.standard_output import dash_for_stdout


@dataclass(frozen=True, kw_only=True)
class PhotoFlags:
    """The photograph, and how its faces are shown."""

    HEADING = "Output"

    photo: Annotated[
        str,
        typer.Argument(
            metavar="PHOTO|-", help="JPEG, PNG or WebP; - reads standard input.", show_default=False
        ),
    ]
    draw: Annotated[
        str | None,
        typer.Option(
            "--draw",
            metavar="FILE.png|-",
            callback=dash_for_stdout,
            help="Also write the photo with its faces marked; - writes standard output.",
        ),
    ] = None
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON instead of a table.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class FacesFlags(SayFlags, AntelopeFlags, DetectFlags, PhotoFlags):
    """Every flag of `faces`."""
