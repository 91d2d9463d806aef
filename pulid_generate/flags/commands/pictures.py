"""Pictures that are there already, and where those made of them go. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer


@dataclass(frozen=True, kw_only=True)
class GivenPicturesFlags:
    """What is read, and the folder of several results."""

    HEADING = "Pictures"

    pictures: Annotated[
        list[str],
        typer.Argument(
            metavar="PICTURE..", help="Pictures, and folders of pictures.", show_default=False
        ),
    ]
    output_dir: Annotated[
        str | None,
        typer.Option(
            "--output-dir",
            metavar="FOLDER",
            help="Where the results go, each under its picture's name; of a single picture it can "
            "be --output.",
        ),
    ] = None
