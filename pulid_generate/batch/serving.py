"""`pulid-generate batch -`: a line of JSON in, a line of results out, until the input ends. Models
stay loaded in between.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.interrupts import Interrupts
from pulid_extract.shared.records import MAX_LINE
from pulid_generate.assembly.opening import check_preview, open_engine, preview_file
from pulid_generate.assembly.people import people_of
from pulid_generate.assembly.progress import Progress
from pulid_generate.assembly.usage import input_files
from pulid_generate.batch.judging import MergedRow, RowJobs, Rows
from pulid_generate.batch.lines import PictureResult
from pulid_generate.batch.row_files import InputFiles
from pulid_generate.batch.running import BatchRun, PictureWriter, ResultLog
from pulid_generate.errors import InputError, PulidError, RequestError, WeightsError
from pulid_generate.flags.commands.tables import BatchFlags
from pulid_generate.rows.folders import make_folders
from pulid_generate.rows.items import Item
from pulid_generate.rows.manifest import parse_line


def serve(flags: BatchFlags, rows: Rows, progress: Progress) -> None:
    """A line in, a line out, until the input ends."""
    if sys.stdin is None:
        raise InputError("standard input: is closed; pipe rows into it, or name a manifest")
    jobs = _open(flags, rows, progress)
    assert jobs.engine is not None
    log, number = ResultLog(None, progress), 0
    with Interrupts(progress.note) as interrupts, jobs.engine as engine:
        writer = PictureWriter(log)
        while data := sys.stdin.buffer.readline(MAX_LINE + 1):
            number += 1
            with interrupts.working():
                if data.strip():
                    _answer(_rest_of_line(data), number, jobs, writer, interrupts)
            if interrupts.asked:
                raise KeyboardInterrupt
    engine.cache.trim()
    if log.counts["failed"]:
        raise PulidError(f"{log.counts['failed']} of {console.counted(log.total, 'line')} failed")


def _open(flags: BatchFlags, rows: Rows, progress: Progress) -> RowJobs:
    """What draws the lines, with PuLID's file unless it is missing and nobody has asked for it."""
    asked_for = flags.pulid_weights is not None or bool(people_of(flags))
    try:
        pipeline, engine = open_engine(flags, with_pulid=True, progress=progress, staying="all")
    except WeightsError:
        if asked_for:
            raise
        pipeline, engine = open_engine(flags, with_pulid=False, progress=progress, staying="all")
    return RowJobs(rows, pipeline, engine)


def _rest_of_line(data: bytes) -> bytes:
    """A line that is longer than it may be is read to its end, and cut."""
    whole = data.endswith(b"\n") or len(data) <= MAX_LINE
    while not whole:
        rest = sys.stdin.buffer.readline(MAX_LINE)
        whole = not rest or rest.endswith(b"\n")
    return data


def _answer(
    data: bytes, number: int, jobs: RowJobs, writer: PictureWriter, interrupts: Interrupts
) -> None:
    """Draw what a line says, or say what is wrong with it."""
    try:
        merged, item = _judge(data, number, jobs)
    except PulidError as error:
        writer.log.report(PictureResult("failed", number, number, error=str(error)))
        return
    assert jobs.engine is not None
    run = BatchRun(lambda item: jobs.job(merged, item.index), jobs.engine, writer, interrupts)
    try:
        run.draw([item])
    # such as a prompt's encoder that does not fit; standard output that is closed raises again
    except PulidError as error:
        failed = PictureResult("failed", number, number, seed=item.seed, error=str(error))
        writer.log.report(failed)


def _judge(data: bytes, number: int, jobs: RowJobs) -> tuple[MergedRow, Item]:
    """The line's row and its picture. Raises PulidError."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError("is not UTF-8; expected one JSON object in each line") from None
    merged = jobs.rows.merge(parse_line(text, number, Path()))
    jobs.forget_names()  # a line may draw a picture again
    items = jobs.items(merged)
    if len(items) != 1:
        raise RequestError(
            f"batch-count {len(items)}: a line draws one picture; send one for each seed"
        )
    inputs = InputFiles()
    inputs.add(input_files(merged.flags, jobs.pipeline))
    check_preview(merged.flags, [items[0].path])
    for path in filter(None, (items[0].path, preview_file(merged.flags))):
        inputs.check(path)
    make_folders(items)
    return merged, items[0]
