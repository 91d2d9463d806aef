"""`pulid-generate doctor`, as --help shows it; `inspection.readiness` does the work, imported when
it is called.
"""

from __future__ import annotations

import typer

from pulid_extract.shared.cli.flags import takes_flags
from pulid_generate.flags.commands.tables import Flags


@takes_flags(Flags)
def doctor(context: typer.Context, flags: Flags) -> None:
    """Say whether a generation with these flags would work here: libraries, devices, memory, each
    model file and the rule that finds it.

    Exit code 0 if all is there, 1 if not; the report names the command that fetches what is
    missing. Takes the flags of a generation.
    """
    from pulid_generate.inspection.readiness import run

    run(context, flags)
