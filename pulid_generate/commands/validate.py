"""`pulid-generate validate`, as --help shows it; `validation.run` does the work, imported when it
is called.
"""

from __future__ import annotations

import typer

from pulid_extract.shared.cli.flags import takes_flags
from pulid_generate.flags.commands.tables import ValidateFlags


@takes_flags(ValidateFlags)
def validate(context: typer.Context, flags: ValidateFlags) -> None:
    """Try an identity with many prompts and seeds, and measure how like the person the pictures
    are.

    Each prompt and seed is drawn with the identity and, as a control, at weight 0; with
    --stranger-embedding by a stranger, too. 'pulid-extract score' compares the faces with
    --reference (and --truth, --stranger), and the pictures with their prompts. Writes a page, a
    report in JSON and a sheet; prints a table, or the report with --json. mean_likeness is the mean
    cosine over all pictures of the person; a picture without a face counts 0.
    """
    from pulid_generate.validation.run import run

    run(context, flags)
