"""`pulid-extract batch` from judged rows to lines of results: the output folder, progress, the
count of what became of the rows. Knows no network.

Every row is judged before a file is looked for. Then one thread reads, decodes and cuts out the
face of the next rows while this one runs EVA-CLIP and IDFormer.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pulid_extract.batch.results import RowResult
from pulid_extract.batch.rows import ENDING, BatchRow, plan_rows
from pulid_extract.batch.work import BatchRun
from pulid_extract.flags.batch import BatchFlags
from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.standard_output import ResultLines, quiet
from pulid_extract.shared.errors import InputError
from pulid_extract.shared.records import listed
from pulid_extract.shared.writing import make_folder


def run_batch(flags: BatchFlags) -> None:
    """Make what every row describes; prints a line of JSON for each, as it is finished.

    Raises PulidError: before the start for rows that are wrong, at the end if any failed; and
    KeyboardInterrupt at the end if it was interrupted.
    """
    rows, problems = plan_rows(flags)
    if problems:
        for line in listed(problems):
            console.complain(line)
        count = console.counted(len(problems), "problem")
        raise InputError(f"{flags.rows}: {count}, listed above; nothing was started")
    # nobody else may read what goes into it, nor exchange it
    out_dir = make_folder(flags.out_dir, flag="--out-dir", mode=0o700)
    _delete_half_written(out_dir, rows)
    counts: Counter[str] = Counter()
    with ResultLines() as lines, quiet():
        run = BatchRun(flags, rows, out_dir)
        with _progress(len(rows)) as advance:
            for result in _results(run):
                lines.write(json.dumps(result.to_json()))
                counts[result.status] += 1
                if result.error is not None:
                    console.complain(f"row {result.row.number}: {result.error}")
                advance()
    _say_counts(counts, len(rows))
    if counts["failed"]:
        raise InputError(
            f"{counts['failed']} of {len(rows)} rows failed, the others are in {out_dir}"
        )


def _results(run: BatchRun) -> Iterator[RowResult]:
    if run.flags.ray is None:
        return run.results()
    from pulid_extract.batch.ray_command import results

    return results(run)


def _say_counts(counts: Counter[str], rows: int) -> None:
    """What became of the rows. Raises KeyboardInterrupt if some were never begun."""
    parts = [f"{count} {status}" for status, count in sorted(counts.items())]
    console.log(f"{console.counted(rows, 'row')}: {', '.join(parts) or 'none done'}")
    left = rows - counts.total()
    if left:
        console.log(f"stopped, {left} not done; run it again with --resume")
        raise KeyboardInterrupt


def _delete_half_written(folder: Path, rows: Sequence[BatchRow]) -> None:
    """What a killed run left half-written of our own outputs."""
    names = {row.output for row in rows}
    for path in folder.glob(f".*{ENDING}.*.part"):
        if path.name[1:].rsplit(".", 2)[0] in names:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error if that is a terminal and the results are not printed there as well;
    else nothing. Gives what is to be called after each row.
    """
    prints_there = sys.__stdout__ is not None and sys.__stdout__.isatty()
    if not sys.stderr.isatty() or prints_there:
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
