"""`pulid-extract batch FOLDER|MANIFEST --out-dir DIR`: parse, call."""

from __future__ import annotations

import typer

from pulid_extract.flags.batch import BatchFlags
from pulid_extract.shared.cli.flags import takes_flags
from pulid_extract.shared.cluster.flags import usage_error
from pulid_extract.shared.errors import require_packages


@takes_flags(BatchFlags)
def batch(context: typer.Context, flags: BatchFlags) -> None:
    """Extract from many portraits with models that are loaded once; print one line of JSON for
    each, as it is finished.

    One that fails does not stop the rest; the exit code is 1 then. Nothing is half-written,
    whenever it is interrupted.
    """
    if wrong := usage_error(flags, flags.device):
        context.fail(wrong)
    from pulid_extract.extraction.opening import PACKAGES

    require_packages(PACKAGES, "extract")
    from pulid_extract.batch.running import run_batch

    run_batch(flags)
