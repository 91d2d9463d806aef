"""How many seeds are tried, and which picture is kept. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

MOST = 1000  # seeds, as --batch-count


@dataclass(frozen=True, kw_only=True)
class BestFlags:
    """Flags as typed."""

    best_of: Annotated[
        int | None,
        typer.Option(
            "--best-of",
            metavar="N",
            min=2,
            max=MOST,
            help="Draw seeds seed, seed+1, .. and keep the picture whose face is most like --reference; the others are listed.",
        ),
    ] = None
    keep_others: Annotated[
        str | None,
        typer.Option(
            "--keep-others",
            metavar="FOLDER",
            help="Also write the others of --best-of, named by their seeds. Default: they are dropped, a seed draws them again.",
        ),
    ] = None
