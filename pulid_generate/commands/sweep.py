"""`pulid-generate sweep`, as --help shows it; `batch.sweep` does the work, imported when it is
called.
"""

from __future__ import annotations

import typer

from pulid_extract.shared.cli.flags import takes_flags
from pulid_generate.flags.commands.tables import SweepFlags


@takes_flags(SweepFlags)
def sweep(context: typer.Context, flags: SweepFlags) -> None:
    """Draw one picture for each value of an option, or of two, with the same seed, and lay them out
    on one labelled sheet.

    Prints one line of JSON for each picture, as batch does. With --reference also says how like
    each picture is.
    """
    from pulid_generate.batch.sweep import run

    run(context, flags)
