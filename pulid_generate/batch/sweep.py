"""`pulid-generate sweep`: the values of one or two options as rows of a batch, and their sheet."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import typer

from pulid_generate.assembly import usage
from pulid_generate.assembly.people import identity_files
from pulid_generate.assembly.progress import Progress
from pulid_generate.assembly.usage import given_flags, shared_input_error
from pulid_generate.batch.command import draw_rows
from pulid_generate.batch.judging import Rows
from pulid_generate.batch.lines import Result, SheetResult
from pulid_generate.batch.results import Look, Shown
from pulid_generate.batch.running import print_line
from pulid_generate.errors import PulidError
from pulid_generate.flags.commands import BatchFlags, SweepFlags
from pulid_generate.flags.names import flag_name
from pulid_generate.pictures.sheet_grid import Heading, SheetGrid, flow
from pulid_generate.rows.axes import MOST_AXES, Axis, parse_axis, sweep_rows
from pulid_generate.rows.names import identity_word
from pulid_generate.rows.row import Row

MOST_IN_A_ROW = 10  # values of a single axis; more stand in lines below each other


def run(context: typer.Context, flags: SweepFlags) -> None:
    """The command."""
    given = given_flags(context, flags)
    if wrong := _usage_error(flags, given):
        context.fail(wrong)
    axes = [parse_axis(text) for text in flags.over or ()]
    if wrong := _axes_error(axes, given):
        context.fail(wrong)
    progress = Progress(flags.verbose, flags.quiet)
    if "as_json" in given:
        progress.note("--json has no effect: results are lines of JSON in any case")
    with ExitStack() as stack:
        folder = flags.output_dir or stack.enter_context(
            tempfile.TemporaryDirectory(prefix="pulid-sweep-")
        )
        batch = BatchFlags.of_command(flags, sheet=flags.output, output_dir=folder)
        rows, found = Rows(batch, given - {"output"}), sweep_rows(axes)
        if wrong := _row_error(rows, found[0]):
            context.fail(wrong)
        look = Look(
            rows,
            found,
            batch.sheet,
            progress,
            print_line if flags.output_dir else _print_without_file,
        )
        look.check()
        tally = look.around(
            lambda shown: grid_of(axes, shown),
            lambda: draw_rows(rows, found, progress, "sweep", tell=look.tell),
        )
    if failed := tally.counts.get("failed"):
        raise PulidError(
            f"{failed} of {tally.total} pictures failed, the sheet {flags.output} says why"
        )


def _usage_error(flags: SweepFlags, given: frozenset[str]) -> str | None:
    if not flags.over:
        return "Missing option '--over'."
    if len(flags.over) > MOST_AXES:
        return f"{len(flags.over)} times --over: a sheet has columns and rows; sweep one or two options, the rest with 'pulid-generate batch'."
    if flags.output == "-":
        return "--output is the sheet, a file; standard output has lines of results."
    if "output_begin_idx" in given:
        return "--output-begin-idx has no meaning for a sheet."
    if flags.resume and flags.output_dir is None:
        return "--resume needs '--output-dir'."
    return shared_input_error(flags)


def _axes_error(axes: Sequence[Axis], given: frozenset[str]) -> str | None:
    twice = [axis for axis in axes if axis.name in given]
    return (
        f"{flag_name(twice[0].name)} and --over {twice[0].option} both give it; leave one of them out."
        if twice
        else None
    )


def _row_error(rows: Rows, first: Row) -> str | None:
    """What is wrong with the usage: the same in every row."""
    flags, given = first.merged(rows.flags, rows.given)
    return usage.usage_error(flags, given)


def _print_without_file(result: Result) -> None:
    """A line of results; pictures that are not kept have no name."""
    if not isinstance(result, SheetResult):
        result = replace(result, output=None)
    print_line(result)


def grid_of(axes: Sequence[Axis], shown: Sequence[Shown]) -> SheetGrid:
    """The first axis across, the second down. Pictures of several seeds share a cell."""
    several = len({one.seed for one in shown}) > 1
    columns = axes[0].labels()
    if len(axes) == 1 and len(columns) > MOST_IN_A_ROW:
        return flow(
            [one.tile(columns[one.asked.row.number - 1], with_seed=several) for one in shown],
            _title(shown),
        )
    rows = axes[1].labels() if len(axes) > 1 else [""]
    cells: list[list[list[Any]]] = [[[] for _ in columns] for _ in rows]
    for one in shown:
        row, column = divmod(one.asked.row.number - 1, len(columns))
        cells[row][column].append(one.tile(with_seed=several))
    portraits = list(dict.fromkeys(path for one in shown for path in one.references))
    heads = (
        [Heading(text) for text in rows]
        if len(axes) > 1
        else [Heading("reference", portraits[0])]
        if portraits
        else []
    )
    return SheetGrid(cells, [Heading(text) for text in columns], heads, _title(shown))


def _title(shown: Sequence[Shown]) -> str:
    """What the pictures share."""
    flags = [one.asked.flags for one in shown]
    prompts = list(dict.fromkeys(one.prompt or one.prompt_file or "" for one in flags))
    people = list(dict.fromkeys(identity_word(identity_files(one)) for one in flags))
    seeds = sorted({one.seed for one in shown if one.seed is not None})
    facts = [prompts[0] if len(prompts) == 1 else "", people[0] if len(people) == 1 else ""]
    return ", ".join(filter(None, [*facts, f"seed {seeds[0]}" if len(seeds) == 1 else ""]))
