"""`pulid-generate batch`, as --help shows it; `batch.command` does the work, imported when it is
called.
"""

from __future__ import annotations

import typer

from pulid_extract.shared.cli.flags import takes_flags
from pulid_generate.flags.commands.tables import BatchFlags


@takes_flags(BatchFlags)
def batch(context: typer.Context, flags: BatchFlags) -> None:
    """Draw many rows with models that are loaded once; print one line of JSON for each picture, as
    it is finished.

    The options of a generation are defaults for every row. Every row is judged before anything
    loads. One that fails does not stop the rest; the exit code is 1 then. Nothing is half-written,
    whenever it is stopped; --resume continues. Ctrl-C finishes the picture in work.
    """
    from pulid_generate.batch.command import run

    run(context, flags)
