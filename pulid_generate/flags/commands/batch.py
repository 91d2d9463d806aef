"""Where the rows of a batch come from, and how they are drawn. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

DEFAULT_PATTERN = "{row:04d}_{identity}_{seed}.png"


@dataclass(frozen=True, kw_only=True)
class SeriesFlags:
    """How many pictures are drawn with models that are loaded once."""

    HEADING = "Series"

    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            metavar="N",
            min=1,
            max=64,
            help="Rows of equal size and steps that go through Flux together; rounds differently.",
        ),
    ] = 1
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Skip rows whose picture is there and was made with the same effective inputs.",
        ),
    ] = False
    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache",
            envvar="PULID_NO_CACHE",
            help="Keep encoded prompts in memory only, not in the user's cache folder.",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class SheetFlags:
    """What is made of the pictures once they are drawn."""

    HEADING = "Series"

    sheet: Annotated[
        str | None,
        typer.Option(
            "--sheet",
            metavar="FILE.png",
            help="Also lay all pictures out: identities down, prompts across, seeds and scores "
            "under them; FILE-2.png and so on if it gets too "
            "large.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class RowFlags(SeriesFlags):
    """Where the rows come from, and what their pictures are called."""

    HEADING = "Rows"

    manifest: Annotated[
        str | None,
        typer.Argument(
            metavar="MANIFEST|-",
            help="Rows: JSON Lines (.jsonl) or CSV (.csv), columns named like the options below; - "
            "reads and answers JSON lines one by one.",
            show_default=False,
        ),
    ] = None
    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts", metavar="FILE", help="Instead of a manifest: one prompt in each line."
        ),
    ] = None
    identities: Annotated[
        str | None,
        typer.Option(
            "--identities",
            metavar="FOLDER",
            help="Instead of a manifest: every .pulidembd of it, with every prompt.",
        ),
    ] = None
    seeds: Annotated[
        str | None,
        typer.Option(
            "--seeds",
            metavar="N-M,..",
            help="Instead of a manifest: each of them, with every prompt and identity.",
        ),
    ] = None
    output_dir: Annotated[
        str,
        typer.Option(
            "--output-dir", metavar="FOLDER", help="Where the pictures go; made if need be."
        ),
    ] = "."
    name: Annotated[
        str,
        typer.Option(
            "--name",
            metavar="PATTERN",
            help="Names of the pictures: {row}, {index}, {identity}, {seed}, {prompt}, {weight}, "
            "{width}, {height}, with Python's formats.",
        ),
    ] = DEFAULT_PATTERN


@dataclass(frozen=True, kw_only=True)
class AxesFlags:
    """The axes of a sweep, and whether its pictures are kept."""

    HEADING = "Sweep"

    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            metavar="OPTION=V,V,..,V",
            help="Option and its values, across the sheet; a second one goes down. Two dots "
            "continue the two values before them: 0,0.25,..,1.5.",
        ),
    ] = None
    output_dir: Annotated[
        str | None,
        typer.Option(
            "--output-dir",
            metavar="FOLDER",
            help="Where the single pictures are kept. Default: they are not.",
        ),
    ] = None
