"""`pulid-extract batch FOLDER|MANIFEST --out-dir DIR`: many extractions with one loaded set of
models. Torch only once there is work.

Every row is judged before a file is looked for. Then one thread reads, decodes and cuts out the
face of the next rows while this one runs EVA-CLIP and IDFormer. A row's file is the same, byte for
byte, as the single command's: both are made by job.py.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pulid_extract.batch.rows import ENDING, Planned, plan
from pulid_extract.extraction.opening import PACKAGES, quiet
from pulid_extract.extraction.result_lines import ResultLines
from pulid_extract.flags.batch import BatchFlags
from pulid_extract.shared.cli import console
from pulid_extract.shared.errors import InputError, require_packages
from pulid_extract.shared.records import listed
from pulid_extract.shared.writing import make_folder

if TYPE_CHECKING:
    pass
from pulid_extract.batch.work import Batch


def run(flags: BatchFlags) -> None:
    """Make what every row describes. Raises PulidError: before the start for rows that cannot be,
    at the end if any failed.
    """
    require_packages(PACKAGES, "extract")
    planned, problems = plan(flags)
    if problems:
        for line in listed(problems):
            console.log(line)
        raise InputError(
            f"{flags.rows}: {len(problems)} problem{'s' * (len(problems) != 1)}, listed above; nothing was started"
        )
    out_dir = make_folder(flags.out_dir, flag="--out-dir")
    _sweep(out_dir, planned)
    with ResultLines() as lines, quiet():
        batch = Batch(flags, planned, out_dir)
        counts: dict[str, int] = {}
        with _progress(len(planned)) as advance:
            for report in batch.reports() if flags.ray is None else _on_cluster(batch):
                lines.write(json.dumps(report))
                counts[report["status"]] = counts.get(report["status"], 0) + 1
                if report["error"] is not None:
                    console.log(f"row {report['row']}: {report['error']}")
                advance()
    summary = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    console.log(f"{len(planned)} row{'s' * (len(planned) != 1)}: {summary or 'none done'}")
    if sum(counts.values()) < len(planned):
        console.log(
            f"stopped, {len(planned) - sum(counts.values())} not done; run it again with --resume"
        )
        raise KeyboardInterrupt
    if counts.get("failed"):
        raise InputError(
            f"{counts['failed']} of {len(planned)} rows failed, the others are in {out_dir}"
        )


def _on_cluster(batch: Batch) -> Iterator[dict[str, Any]]:
    from pulid_extract.batch.ray_command import reports

    return reports(batch)


def _sweep(folder: Path, planned: Sequence[Planned]) -> None:
    """Delete what a killed run left half-written beside our own outputs."""
    names = {one.output for one in planned}
    for path in folder.glob(f".*{ENDING}.*.part"):
        if path.name[1:].rsplit(".", 2)[0] in names:
            path.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------- work


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error if that is a terminal and the results are not printed there as well;
    else nothing.
    """
    if not sys.stderr.isatty() or (sys.__stdout__ is not None and sys.__stdout__.isatty()):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("extracting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("rows", total=total)
        yield lambda: progress.advance(task)
