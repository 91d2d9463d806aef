"""`pulid-generate batch`: many rows with models that are loaded once. Judge all rows, encode all prompts, draw, decode beside the next picture.

A row that is drawn by itself takes the single command's path through the pipeline, so its file is the same, byte for byte.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.interrupts import Interrupts
from pulid_extract.shared.cluster import ray_crew as cluster
from pulid_extract.shared.records import FORMS, MAX_BYTES, MAX_LINE, listed
from pulid_extract.shared.writing import check_writable
from pulid_generate.assembly import requests as assembly
from pulid_generate.assembly.progress import Progress
from pulid_generate.batch.judging import Asked, Inputs, Rows
from pulid_generate.batch.results import Look
from pulid_generate.batch.running import BatchRun, Outlet, Tally, print_line
from pulid_generate.batch.sheet import sheet_of
from pulid_generate.errors import InputError, OutputError, PulidError, RequestError, WeightsError
from pulid_generate.flags.commands import BatchFlags, Flags
from pulid_generate.pipeline.text_cache import TextCache, default_folder
from pulid_generate.rows.grid import grid
from pulid_generate.rows.items import Item, result
from pulid_generate.rows.manifest import Row, parse_line, read_manifest

if TYPE_CHECKING:
    from pulid_generate.pipeline.pipeline import Pipeline
    from pulid_generate.pipeline.session import Session

GRID = ("prompts", "identities", "seeds")


def run(context: typer.Context, flags: BatchFlags) -> None:
    """The command."""
    given = frozenset(item.name for item in fields(Flags) if console.was_given(context, item.name))
    if wrong := _usage_error(flags, given):
        context.fail(wrong)
    progress = Progress(flags.verbose, flags.quiet)
    if "as_json" in given:
        progress.note("--json has no effect: results are lines of JSON in any case")
    rows = Rows(flags, given)
    if flags.manifest == "-":
        _serve(flags, rows, progress)
    else:
        _draw_all(flags, rows, progress)


def _usage_error(flags: BatchFlags, given: frozenset[str]) -> str | None:
    axes = [f"--{name}" for name in GRID if getattr(flags, name) is not None]
    if flags.manifest is None and not axes:
        return "Missing argument 'MANIFEST|-', or --prompts, --identities and --seeds."
    if flags.manifest is not None and axes:
        return f"{' and '.join(axes)} make rows, and so does {flags.manifest}; leave one of them out."
    if "output" in given or "output_begin_idx" in given:
        return "--output is one file; pictures of a batch are named by --name PATTERN in --output-dir, or by a row's own output."
    known = {"--batch-size": flags.batch_size > 1, "--sheet": flags.sheet is not None, "--ray": flags.ray is not None}
    if flags.manifest == "-" and any(known.values()):
        name = next(name for name, wanted in known.items() if wanted)
        return f"{name} needs rows that are known beforehand; standard input is answered line by line."
    if flags.manifest == "-" and flags.reference:
        return "--reference scores pictures once all are drawn; standard input is answered line by line."
    if flags.sheet == "-":
        return "--sheet is a file; standard output has lines of results."
    return wants_standard_input(flags) or cluster.usage_error(flags, flags.device)


def as_batch(flags: Flags, **own: Any) -> BatchFlags:
    """The batch's flags for a command whose rows are its own. own: values in place of the command's."""
    common = {item.name: getattr(flags, item.name) for item in fields(BatchFlags) if hasattr(flags, item.name)}
    return BatchFlags(**common | own)


def wants_standard_input(flags: Flags) -> str | None:
    """What is wrong if a flag that holds for every row names standard input."""
    if any(getattr(flags, name) == "-" for name in assembly.READERS) or any(
        text.split(",")[0] == "-" for text in flags.identity or ()
    ):
        return "Standard input can be read once, not for every row; name a file."
    return None


# -------------------------------------------------------------------------------------------------------------------- all rows


def _draw_all(flags: BatchFlags, rows: Rows, progress: Progress) -> None:
    found, problems = _read_rows(flags)
    look = Look(rows, found, flags.sheet, progress, print_line)
    look.check()
    tally = look.around(sheet_of, lambda: draw_rows(rows, found, progress, flags.manifest or "the grid", problems, look.tell))
    if tally.counts.get("failed"):
        raise PulidError(f"{tally.counts['failed']} of {_count(tally.total, 'picture')} failed, the others are in {rows.folder}")


def draw_rows(
    rows: Rows,
    found: Sequence[Row],
    progress: Progress,
    whose: str,
    problems: Sequence[str] = (),
    tell: Callable[[Mapping[str, Any]], None] = print_line,
) -> Tally:
    """Judge all rows, draw them all, and say what came of each.

    whose: what the rows are of, for messages. problems: those that reading the rows found. tell: gets each picture's `batch.result`, perhaps
    from another thread. A picture that fails is told and counted; raises PulidError for what stops all of them, and before any is drawn if
    there are problems.
    """
    problems, flags = list(problems), rows.flags
    judge = _Judge(flags, rows, progress, problems)
    asked = judge.ask(found)
    pipeline, session = judge.open(asked)
    items = judge.items(asked, pipeline, session) if pipeline is not None and session is not None else []
    if problems or pipeline is None or session is None:
        for line in listed(sorted(problems, key=_line_number)):
            console.log(line)
        raise InputError(f"{whose}: {_count(problems, 'problem')}, listed above; nothing was started")
    _make_folders(items)
    tally = Tally(len(items), progress, tell)
    outlet = Outlet(tally)
    with Interrupts(progress.note) as interrupts, session:
        if rows.on_cluster:
            from pulid_generate.batch import ray_command as batch_ray

            batch_ray.draw(rows, asked, items, pipeline, outlet, interrupts, progress)
        else:
            run = BatchRun(rows.finder(asked, pipeline, session), pipeline, session, outlet, interrupts)
            run.draw([item for item in items if item.done is None], [item for item in items if item.done is not None])
    session.cache.trim()
    console.log(tally.summary()) if not flags.quiet else None
    left = len(items) - tally.total
    if outlet.full is not None:
        raise OutputError(f"{outlet.full}; {_count(left, 'picture')} not drawn, make room and run it again with --resume")
    if interrupts.asked and left:
        progress.note(f"stopped, {_count(left, 'picture')} not drawn; run it again with --resume")
        raise KeyboardInterrupt
    return tally


class _Judge:
    """Every row looked at, before anything loads. problems: a line for each."""

    def __init__(self, flags: BatchFlags, rows: Rows, progress: Progress, problems: list[str]):
        self.flags, self.rows, self.progress, self.problems = flags, rows, progress, problems

    def ask(self, found: Sequence[Row]) -> dict[int, Asked]:
        asked = {}
        for row in found:
            try:
                asked[row.number] = self.rows.ask(row)
            except PulidError as error:
                self.problems.append(f"{row.where}: {error}")
        return asked

    def open(self, asked: dict[int, Asked]) -> tuple[Pipeline | None, Session | None]:
        """The pipeline, with no model loaded; None, with problems, if files are missing and rows are wrong as well."""
        someone = any(one.flags.pulid_id_embedding or one.flags.identity for one in asked.values())
        try:
            if self.rows.on_cluster:
                from pulid_generate.batch.ray_command import open_judge

                return open_judge(self.flags, someone, self.progress)
            return open_session(self.flags, someone, self.progress)
        except PulidError as error:
            for one in asked.values():
                try:
                    self.rows.read(one)
                except PulidError as wrong:
                    self.problems.append(f"{one.row.where}: {wrong}")
            if not self.problems:
                raise
            self.problems.append(str(error))
            return None, None

    def items(self, asked: dict[int, Asked], pipeline: Pipeline, session: Session) -> list[Item]:
        inputs, found = Inputs(), []
        idle: dict[str, None] = {}
        for one in asked.values():
            try:
                found += self.rows.items(one, pipeline, session)
                inputs.add(assembly.input_files(one.flags, pipeline))
                inputs.add(Path(name).expanduser() for name in one.flags.reference or ())
                idle |= dict.fromkeys(assembly.idle_flags(one.flags, one.was_given, pipeline.dev))
            except PulidError as error:
                self.problems.append(f"{one.row.where}: {error}")
        for item in found:
            try:
                inputs.check(item.path)
            except OutputError as error:
                self.problems.append(f"{item.where}: {error}")
        if self.flags.sheet is not None:
            inputs.check(Path(self.flags.sheet).expanduser())
        for line in idle:
            self.progress.note(line)
        return found


def open_session(flags: BatchFlags, with_pulid: bool, progress: Progress, serving: bool = False) -> tuple[Pipeline, Session]:
    """Headers read, nothing loaded. Raises PulidError."""
    pipeline = assembly.open_pipeline(flags, with_pulid=with_pulid, note=progress.note, log=progress.log, on_step=progress.step)
    from pulid_generate.pipeline.session import Session

    cache = TextCache(None if flags.no_cache else default_folder())
    return pipeline, Session(pipeline, cache, batch=flags.batch_size, serving=serving)


def _read_rows(flags: BatchFlags) -> tuple[list[Row], list[str]]:
    if flags.manifest is None:
        return grid(flags.prompts, flags.identities, flags.seeds), []
    path = Path(flags.manifest).expanduser()
    form = path.suffix.lower()
    if form not in FORMS:
        raise InputError(f"{flags.manifest}: expected a manifest that ends in {' or '.join(FORMS)}")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{flags.manifest}: cannot be read ({error.strerror or error})") from None
    return read_manifest(data, flags.manifest, form, path.parent)


def _make_folders(items: Sequence[Item]) -> None:
    """The folders of the pictures, without what a killed run left half-written in them. Raises OutputError."""
    names: dict[Path, set[str]] = {}
    for item in items:
        names.setdefault(item.path.parent, set()).add(item.path.name)
    for folder, ours in names.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be made ({error.strerror or error})") from None
        for path in folder.glob(".*.part"):
            if path.name[1:].rsplit(".", 2)[0] in ours:
                path.unlink(missing_ok=True)
        check_writable(folder / next(iter(ours)))


def _line_number(problem: str) -> int:
    words = problem.replace(":", " ").split()
    return int(words[1]) if words[:1] in (["line"], ["row"]) and words[1].isdigit() else 0


def _count(things: Sequence[object] | int, noun: str) -> str:
    count = things if isinstance(things, int) else len(things)
    return f"{count} {noun}{'s' * (count != 1)}"


# ---------------------------------------------------------------------------------------------------------------------- worker


def _serve(flags: BatchFlags, rows: Rows, progress: Progress) -> None:
    """A line in, a line out, until the input ends."""
    if sys.stdin is None:
        raise InputError("standard input: is closed; pipe rows into it, or name a manifest")
    try:
        pipeline, session = open_session(flags, True, progress, serving=True)
    except WeightsError:
        if flags.pulid_weights is not None or flags.pulid_id_embedding is not None or flags.identity:
            raise
        pipeline, session = open_session(flags, False, progress, serving=True)  # which may do without PuLID's file
    tally, number = Tally(None, progress), 0
    with Interrupts(progress.note) as interrupts, session:
        while data := sys.stdin.buffer.readline(MAX_LINE + 1):
            number += 1
            with interrupts.working():
                _answer(data, number, rows, pipeline, session, tally, interrupts)
            if interrupts.asked:
                raise KeyboardInterrupt
    session.cache.trim()
    if tally.counts.get("failed"):
        raise PulidError(f"{tally.counts['failed']} of {_count(tally.total, 'line')} failed")


def _answer(
    data: bytes, number: int, rows: Rows, pipeline: Pipeline, session: Session, tally: Tally, interrupts: Interrupts
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
            raise RequestError(f"batch-count {len(items)}: a line draws one picture; send one for each seed")
        inputs = Inputs()
        inputs.add(assembly.input_files(asked.flags, pipeline))
        inputs.check(items[0].path)
        _make_folders(items)
    except PulidError as error:
        tally.report(result("failed", number=number, line=number, error=str(error)))
        return
    run = BatchRun(rows.finder({number: asked}, pipeline, session), pipeline, session, Outlet(tally), interrupts)
    try:
        run.draw([item for item in items if item.done is None], [item for item in items if item.done is not None])
    except PulidError as error:  # such as a prompt's encoder that does not fit; standard output that is closed raises again
        tally.report(result("failed", number=number, line=number, seed=items[0].seed, error=str(error)))
