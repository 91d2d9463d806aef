"""`pulid-generate demo`, as --help shows it; demo/ does the work. Imports no torch."""

from __future__ import annotations

from typing import Annotated

import typer

from pulid_extract.shared.file_names import path_of
from pulid_generate.demo.world import FOLDER


def demo(
    output_dir: Annotated[
        str,
        typer.Option("--output-dir", metavar="FOLDER", help="Where all of it goes. Default: demo."),
    ] = "demo",
    models_dir: Annotated[
        str | None,
        typer.Option(
            "--models-dir",
            metavar="FOLDER",
            help=f"The small world's models. Default: {FOLDER} of the checkout, else they are "
            "downloaded once (48 MB).",
        ),
    ] = None,
) -> None:
    """Show everything on one sheet, without the real files: extract four drawn people, draw each in
    five scenes and the scenes without PuLID, score the faces, prove the injection.

    The models are the small world's, PuLID-FLUX in miniature. It needs the packages of both
    programs: pip install 'pulid-flux-toolkit[extract,generate]'. The commands that it runs are
    shown.
    """
    from pulid_generate.demo.running import run_demo

    run_demo(path_of(output_dir), models_dir)
