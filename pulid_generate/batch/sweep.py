"""`pulid-generate sweep`: the values of one or two options as rows of a batch, and their sheet."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack

import typer

from pulid_generate.assembly import usage
from pulid_generate.assembly.people import identity_files
from pulid_generate.assembly.progress import Progress
from pulid_generate.assembly.requests import check_values
from pulid_generate.assembly.usage import given_flags, shared_input_error
from pulid_generate.batch.command import draw_rows
from pulid_generate.batch.judging import Rows
from pulid_generate.batch.results import PictureOutcome, ResultCollector
from pulid_generate.batch.sweep_lines import SweepLines
from pulid_generate.errors import PulidError
from pulid_generate.flags.commands.names import flag_name
from pulid_generate.flags.commands.tables import BatchFlags, SweepFlags
from pulid_generate.pictures.sheet_grid import Heading, SheetGrid, Thumbnail, flow
from pulid_generate.rows.axes import MOST_AXES, Axis, parse_axis, sweep_rows
from pulid_generate.rows.names import identity_word
from pulid_generate.rows.row import Row

# values of a single axis; more stand in lines below each other
MOST_IN_A_ROW = 10


def run(context: typer.Context, flags: SweepFlags) -> None:
    """The command."""
    given = given_flags(context, flags)
    if wrong := _usage_error(flags, given):
        context.fail(wrong)
    axes = [parse_axis(text) for text in flags.over or ()]
    if wrong := _axes_error(axes, given):
        context.fail(wrong)
    progress = Progress(flags.verbose, flags.quiet)
    rows = sweep_rows(axes)
    with ExitStack() as stack:
        folder = flags.output_dir
        # without a folder pictures are not kept, and have no name
        lines = SweepLines(axes, kept=folder is not None, as_json=flags.as_json)
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pulid-sweep-"))
        batch = Rows(
            BatchFlags.of_command(flags, sheet=flags.output, output_dir=folder), given - {"output"}
        )
        if wrong := _row_error(batch, rows[0]):
            context.fail(wrong)
        # all of them stand on the command line
        for row in rows:
            check_values(batch.merge(row).flags)
        results = ResultCollector(batch, rows, flags.output, progress, lines.write)
        results.check_references()
        tally = results.draw_and_finish(
            lambda: draw_rows(batch, rows, progress, "sweep", emit=results.add),
            lambda outcomes: sweep_sheet(axes, outcomes),
        )
    if failed := tally.counts.get("failed"):
        raise PulidError(
            f"{failed} of {tally.total} pictures failed, the sheet {flags.output} says why"
        )


def _usage_error(flags: SweepFlags, given: frozenset[str]) -> str | None:
    if not flags.over:
        return "Missing option '--over'."
    if len(flags.over) > MOST_AXES:
        return (
            f"{len(flags.over)} times --over: a sheet has columns and rows; sweep one or two "
            "options, the rest with 'pulid-generate batch'."
        )
    if flags.output == "-":
        return "--output is the sheet, a file; standard output has lines of results."
    if "output_begin_idx" in given:
        return "--output-begin-idx has no meaning for a sheet."
    if flags.resume and flags.output_dir is None:
        return "--resume needs '--output-dir'."
    return shared_input_error(flags)


def _axes_error(axes: Sequence[Axis], given: frozenset[str]) -> str | None:
    for axis in axes:
        if axis.name in given:
            flag = flag_name(axis.name)
            return f"{flag} and --over {axis.option} both give it; leave one of them out."
    return None


def _row_error(batch: Rows, first: Row) -> str | None:
    """What is wrong with the usage: the same in every row."""
    flags, given = first.merged(batch.flags, batch.given)
    return usage.usage_error(flags, given)


def sweep_sheet(axes: Sequence[Axis], outcomes: Sequence[PictureOutcome]) -> SheetGrid:
    """The first axis across, the second down. Pictures of several seeds share a cell."""
    with_seed = len({one.seed for one in outcomes}) > 1
    title = _title(outcomes)
    columns = axes[0].labels()
    if len(axes) == 1 and len(columns) > MOST_IN_A_ROW:
        thumbnails = []
        for one in outcomes:
            thumbnails.append(one.thumbnail(columns[one.row.number - 1], with_seed=with_seed))
        return flow(thumbnails, title)

    rows = axes[1].labels() if len(axes) > 1 else [""]
    cells: list[list[list[Thumbnail]]] = [[[] for _ in columns] for _ in rows]
    for one in outcomes:
        row, column = divmod(one.row.number - 1, len(columns))
        cells[row][column].append(one.thumbnail(with_seed=with_seed))

    headings: list[Heading] = []
    portraits = [one.references[0] for one in outcomes if one.references]
    if len(axes) > 1:
        headings = [Heading(text) for text in rows]
    elif portraits:
        headings = [Heading("reference", portraits[0])]
    return SheetGrid(cells, [Heading(text) for text in columns], headings, title)


def _title(outcomes: Sequence[PictureOutcome]) -> str:
    """What the pictures share: the prompt, the people, the seed."""
    prompts, people, seeds = set(), set(), set()
    for one in outcomes:
        prompts.add(one.flags.prompt or one.flags.prompt_file or "")
        people.add(identity_word(identity_files(one.flags)))
        if one.seed is not None:
            seeds.add(f"seed {one.seed}")
    shared: list[str] = []
    for values in (prompts, people, seeds):
        if len(values) == 1:
            shared += values
    return ", ".join(text for text in shared if text)
