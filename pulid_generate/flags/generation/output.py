"""What is written, and what is said. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from pulid_extract.shared.cli.standard_output import dash_for_stdout
from pulid_generate.version import __version__


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"pulid-generate {__version__}")
        raise typer.Exit


@dataclass(frozen=True, kw_only=True)
class OutputFlags:
    """The picture's file, and what is printed."""

    HEADING = "Output"

    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|-",
            callback=dash_for_stdout,
            help="The PNG to write; - writes standard output.",
        ),
    ] = "output.png"
    output_begin_idx: Annotated[
        int | None,
        typer.Option(
            "--output-begin-idx",
            metavar="N",
            help="Number of the first picture of several. Default: 0.",
        ),
    ] = None
    disable_image_metadata: Annotated[
        bool,
        typer.Option(
            "--disable-image-metadata",
            help="Leave out the `parameters` text and the mark of a generated picture.",
        ),
    ] = False
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one line of JSON for each picture instead of its path."),
    ] = False
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="Say what is loaded and every step, also where standard error is not a terminal.",
        ),
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no log, only errors.")
    ] = False
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False
