"""TODO"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.interrupts import Interrupts
from pulid_extract.shared.records import MAX_LINE
from pulid_generate.assembly import usage
from pulid_generate.assembly.progress import Progress
from pulid_generate.batch.judging import Inputs, Rows
from pulid_generate.batch.lines import PictureResult
from pulid_generate.batch.running import BatchRun, Outlet, Tally
from pulid_generate.errors import InputError, PulidError, RequestError, WeightsError
from pulid_generate.flags.commands import BatchFlags
from pulid_generate.rows.manifest import parse_line

if TYPE_CHECKING:
    from pulid_generate.pipeline.pipeline import Pipeline
    from pulid_generate.pipeline.session import Session
from pulid_generate.assembly.opening import open_session
from pulid_generate.rows.folders import make_folders


def serve(flags: BatchFlags, rows: Rows, progress: Progress) -> None:
    """A line in, a line out, until the input ends."""
    if sys.stdin is None:
        raise InputError("standard input: is closed; pipe rows into it, or name a manifest")
    try:
        pipeline, session = open_session(flags, True, progress, serving=True)
    except WeightsError:
        if (
            flags.pulid_weights is not None
            or flags.pulid_id_embedding is not None
            or flags.identity
        ):
            raise
        # which may do without PuLID's file
        pipeline, session = open_session(flags, False, progress, serving=True)
    tally, number = Tally(None, progress), 0
    with Interrupts(progress.note) as interrupts, session:
        while data := sys.stdin.buffer.readline(MAX_LINE + 1):
            number += 1
            with interrupts.working():
                answer(data, number, rows, pipeline, session, tally, interrupts)
            if interrupts.asked:
                raise KeyboardInterrupt
    session.cache.trim()
    if tally.counts.get("failed"):
        raise PulidError(f"{tally.counts['failed']} of {console.counted(tally.total, 'line')} failed")


def answer(
    data: bytes,
    number: int,
    rows: Rows,
    pipeline: Pipeline,
    session: Session,
    tally: Tally,
    interrupts: Interrupts,
) -> None:
    """Draw what a line says, or say what is wrong with it."""
    whole = data.endswith(b"\n") or len(data) <= MAX_LINE
    while not data.endswith(b"\n") and not whole:  # the rest of a line that is too long
        rest = sys.stdin.buffer.readline(MAX_LINE)
        whole = not rest or rest.endswith(b"\n")
    if not data.strip():
        return
    try:
        try:
            asked = rows.ask(parse_line(data.decode("utf-8-sig"), number, Path()))
        except UnicodeDecodeError:
            raise RequestError("is not UTF-8; expected one JSON object in each line") from None
        rows.forget_names()  # a line may draw a picture again
        items = rows.items(asked, pipeline, session)
        if len(items) != 1:
            raise RequestError(
                f"batch-count {len(items)}: a line draws one picture; send one for each seed"
            )
        inputs = Inputs()
        inputs.add(usage.input_files(asked.flags, pipeline))
        inputs.check(items[0].path)
        make_folders(items)
    except PulidError as error:
        tally.report(PictureResult("failed", number, number, error=str(error)))
        return
    run = BatchRun(
        rows.finder({number: asked}, pipeline, session),
        pipeline,
        session,
        Outlet(tally),
        interrupts,
    )
    try:
        run.draw(
            [item for item in items if item.done is None],
            [item for item in items if item.done is not None],
        )
    # such as a prompt's encoder that does not fit; standard output that is closed raises again
    except PulidError as error:
        tally.report(PictureResult("failed", number, number, seed=items[0].seed, error=str(error)))
