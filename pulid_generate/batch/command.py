"""`pulid-generate batch`: many rows with models that are loaded once. Judge all rows, encode all
prompts, draw, decode beside the next picture.

A row that is drawn by itself takes the single command's path through the pipeline, so its file is
the same, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import typer

from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.interrupts import Interrupts
from pulid_extract.shared.cluster.flags import usage_error as cluster_usage_error
from pulid_extract.shared.records import Problem, listed
from pulid_generate.assembly.progress import Progress
from pulid_generate.assembly.usage import given_flags, shared_input_error
from pulid_generate.batch.checking import RowChecker
from pulid_generate.batch.judging import MergedRow, RowJobs, Rows
from pulid_generate.batch.lines import PictureResult
from pulid_generate.batch.results import ResultCollector
from pulid_generate.batch.running import BatchRun, PictureWriter, ResultLog, print_line
from pulid_generate.batch.serving import serve
from pulid_generate.batch.sheet import batch_sheet
from pulid_generate.errors import InputError, OutputError, PulidError
from pulid_generate.flags.commands.tables import BatchFlags
from pulid_generate.rows.folders import make_folders
from pulid_generate.rows.items import Item
from pulid_generate.rows.row import Row
from pulid_generate.rows.sources import read_rows

if TYPE_CHECKING:
    from pulid_generate.request.job import Job

GRID = ("prompts", "identities", "seeds")


def run(context: typer.Context, flags: BatchFlags) -> None:
    """The command."""
    given = given_flags(context, flags)
    if wrong := _usage_error(flags, given):
        context.fail(wrong)
    progress = Progress(flags.verbose, flags.quiet)
    if "as_json" in given:
        progress.note("--json has no effect: results are lines of JSON in any case")
    rows = Rows(flags, given)
    if flags.manifest == "-":
        serve(flags, rows, progress)
    else:
        _draw_all(flags, rows, progress)


def _usage_error(flags: BatchFlags, given: frozenset[str]) -> str | None:
    axes = [f"--{name}" for name in GRID if getattr(flags, name) is not None]
    if flags.manifest is None and not axes:
        return "Missing argument 'MANIFEST|-', or --prompts, --identities and --seeds."
    if flags.manifest is not None and axes:
        return (
            f"{' and '.join(axes)} make rows, and so does {flags.manifest}; leave one of them out."
        )
    if "output" in given or "output_begin_idx" in given:
        return (
            "--output is one file; pictures of a batch are named by --name PATTERN in "
            "--output-dir, or by a row's own output."
        )
    known = {
        "--batch-size": flags.batch_size > 1,
        "--sheet": flags.sheet is not None,
        "--ray": flags.ray is not None,
    }
    if flags.manifest == "-" and any(known.values()):
        name = next(name for name, wanted in known.items() if wanted)
        return (
            f"{name} needs rows that are known beforehand; standard input is answered line by line."
        )
    if flags.manifest == "-" and flags.reference:
        return (
            "--reference scores pictures once all are drawn; "
            "standard input is answered line by line."
        )
    if flags.ray is not None and flags.preview != "none":
        return "--preview shows pictures that are drawn by this process; leave it or --ray out."
    if flags.sheet == "-":
        return "--sheet is a file; standard output has lines of results."
    return shared_input_error(flags) or cluster_usage_error(flags, flags.device)


def _draw_all(flags: BatchFlags, rows: Rows, progress: Progress) -> None:
    found, problems = read_rows(flags)
    results = ResultCollector(rows, found, flags.sheet, progress, print_line)
    results.check_references()
    source = flags.manifest or "the grid"
    log = results.draw_and_finish(
        lambda: draw_rows(rows, found, progress, source, problems, results.add), batch_sheet
    )
    if failed := log.counts["failed"]:
        raise PulidError(
            f"{failed} of {console.counted(log.total, 'picture')} failed, "
            f"the others are in {rows.folder}"
        )


def draw_rows(
    rows: Rows,
    found: Sequence[Row],
    progress: Progress,
    source: str,
    problems: Sequence[Problem] = (),
    emit: Callable[[PictureResult], None] = print_line,
) -> ResultLog:
    """Judge all rows, draw them all, and emit what came of each.

    source: where the rows are from, for messages. problems: those that reading the rows found.
    emit: gets each picture's result, perhaps from another thread. A picture that fails is emitted
    and counted; raises PulidError for what stops all of them, and before any is drawn if there are
    problems.
    """
    checker = RowChecker(rows, progress, problems)
    merged = checker.merge(found)
    jobs = checker.open(merged)
    items = checker.items(merged, jobs) if jobs is not None else []
    if checker.problems or jobs is None:
        for line in listed(checker.problems):
            console.complain(line)
        problem_count = console.counted(len(checker.problems), "problem")
        raise InputError(f"{source}: {problem_count}, listed above; nothing was started")
    make_folders(items)
    log = ResultLog(len(items), progress, emit)
    writer = PictureWriter(log)
    with Interrupts(progress.note) as interrupts:
        if jobs.engine is not None:
            with jobs.engine as engine:
                find = partial(_job_of, jobs, merged)
                BatchRun(find, engine, writer, interrupts).draw(items)
            engine.cache.trim()
        else:
            from pulid_generate.batch import ray_command

            ray_command.draw(rows, merged, items, jobs.pipeline, writer, interrupts, progress)
    if not rows.flags.quiet:
        console.log(log.summary())
    left = console.counted(len(items) - log.total, "picture")
    if writer.full is not None:
        raise OutputError(
            f"{writer.full}; {left} not drawn, make room and run it again with --resume"
        )
    if interrupts.asked and log.total < len(items):
        progress.note(f"stopped, {left} not drawn; run it again with --resume")
        raise KeyboardInterrupt
    return log


def _job_of(jobs: RowJobs, merged: Mapping[int, MergedRow], item: Item) -> Job:
    return jobs.job(merged[item.number], item.index)
