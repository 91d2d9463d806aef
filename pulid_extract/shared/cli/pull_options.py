"""The options of `pull`, which are the same in both programs. Knows no kit."""

from __future__ import annotations

from typing import Annotated

import typer

from pulid_extract.shared.model_files import MODELS_DIR_VARIABLE

ModelsDir = Annotated[
    str,
    typer.Option(
        "--models-dir",
        metavar="FOLDER",
        envvar=MODELS_DIR_VARIABLE,
        help="Where the files go; made if need be.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Only say what is there, what is missing and how much space there is; no network "
        "call.",
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Fetch also what another file of the folder already fills, and replace damaged files.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON for each file.")]
