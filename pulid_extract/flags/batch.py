"""The flags of `pulid-extract batch`: its own beside those of an extraction. Knows nothing of what
they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from pulid_extract.flags.extract import CacheFlags, FuseFlags
from pulid_extract.flags.groups import CropFlags, DetectFlags, EncodeFlags, ModelFlags, SayFlags
from pulid_extract.shared.cluster.flags import ClusterFlags


@dataclass(frozen=True, kw_only=True)
class RowFlags:
    """Where rows come from and where results go."""

    HEADING = "Rows"

    rows: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|MANIFEST|-",
            help="Folder of pictures, one person in each; or a manifest (.jsonl, .csv) with "
            "columns portrait or portraits, out, and any option of a single extraction; - reads "
            "JSON lines from standard input.",
            show_default=False,
        ),
    ]
    out_dir: Annotated[
        str,
        typer.Option(
            "--out-dir",
            metavar="FOLDER",
            help="Where the .pulidembd files go; made if need be.",
            show_default=False,
        ),
    ]
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Skip what an earlier run into this folder made of the same portraits, options "
            "and weights.",
        ),
    ] = False
    strict: Annotated[
        bool, typer.Option("--strict", help="A row with any warning about a portrait fails.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class BatchFlags(
    SayFlags,
    CacheFlags,
    ModelFlags,
    CropFlags,
    DetectFlags,
    EncodeFlags,
    FuseFlags,
    ClusterFlags,
    RowFlags,
):
    """Every flag of `batch`; those of an extraction are defaults for every row."""
