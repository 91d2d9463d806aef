"""`pulid-generate detail`, as --help shows it; `batch.detailing` does the work, imported when it is
called.
"""

from __future__ import annotations

import typer

from pulid_extract.shared.cli.flags import takes_flags
from pulid_generate.flags.commands.tables import DetailCommandFlags


@takes_flags(DetailCommandFlags)
def detail(context: typer.Context, flags: DetailCommandFlags) -> None:
    """Redraw the faces of pictures that are there already, each with its person's identity: put
    somebody into a picture, or mend a face that came out small.

    Of one person the face is the one most like --reference, else the largest. Several people have
    a region each, or references that are called like their files. Every other face, and every
    pixel around, stays as it is. --strength (0.75) says how much of a face is redrawn, -W and -H
    in what size. Without --prompt the picture's own prompt is taken from its metadata, else none.
    """
    from pulid_generate.batch.detailing import run

    run(context, flags)
