"""`pulid-generate`: draw pictures and write them. What the command does when no sub-command is
named.
"""

from __future__ import annotations

import time

import typer

from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.flags import takes_flags
from pulid_extract.shared.writing import check_writable
from pulid_generate.flags.commands.tables import DrawFlags


@takes_flags(DrawFlags)
def draw(context: typer.Context, flags: DrawFlags) -> None:
    """Draw pictures with Flux.1, and with the person of a .pulidembd."""
    if context.invoked_subcommand is not None:
        console.refuse_options(context)
        return
    from pulid_generate.assembly.opening import open_drawing
    from pulid_generate.assembly.progress import Progress
    from pulid_generate.assembly.requests import read_drawing
    from pulid_generate.assembly.usage import given_flags, usage_error
    from pulid_generate.batch import best_of
    from pulid_generate.pictures.saving import output_paths, report, save

    given = given_flags(context, flags)
    if wrong := usage_error(flags, given) or best_of.usage_error(flags, given):
        context.fail(wrong)
    if flags.output == "-" and flags.as_json:
        context.fail("--json and '--output -' both want standard output.")
    paths = output_paths(flags.output, flags.batch_count, flags.output_begin_idx)
    files = [path for path in paths if path is not None]
    for file in files:
        check_writable(file)
    started, progress = time.monotonic(), Progress(flags.verbose, flags.quiet)
    best = best_of.BestOf(flags, paths[0], progress) if flags.best_of is not None else None
    drawing = read_drawing(flags, given)
    for note in drawing.notes():
        progress.note(note)
    pipeline = open_drawing(
        flags,
        given,
        files,
        with_pulid=bool(drawing.subjects),
        progress=progress,
        inputs=best.inputs() if best is not None else (),
    )
    if best is not None:
        best.draw(pipeline, best.jobs(pipeline, drawing))
        return
    for path, picture in zip(paths, pipeline.draw(drawing.jobs(pipeline)), strict=True):
        data = save(picture, path, not flags.disable_image_metadata)
        if path is not None:
            report(picture, path, data, time.monotonic() - started, flags.as_json)
