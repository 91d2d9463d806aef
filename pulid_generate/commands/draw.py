"""`pulid-generate`: draw pictures and write them. What the command does when no sub-command is
named.
"""

from __future__ import annotations

import time

import typer

from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.flags import takes_flags
from pulid_extract.shared.writing import check_not_input, check_writable
from pulid_generate.flags.commands import DrawFlags


@takes_flags(DrawFlags)
def draw(context: typer.Context, flags: DrawFlags) -> None:
    """Draw pictures with Flux.1, and with the person of a .pulidembd.

    Example: pulid-generate --diffusion-model flux1-schnell.safetensors --vae ae.safetensors --clip_l clip_l.safetensors
    --t5xxl t5xxl_fp16.safetensors --pulid-weights pulid_flux_v0.9.1.safetensors --pulid-id-embedding me.pulidembd
    -p "candid photograph on a beach at sunset" -o out.png
    """
    if context.invoked_subcommand is not None:
        console.refuse_options(context)
        return
    from pulid_generate.assembly import opening, usage
    from pulid_generate.assembly import requests as assembly
    from pulid_generate.assembly.progress import Progress
    from pulid_generate.batch import best_of
    from pulid_generate.pictures.saving import output_paths, report, save

    given = usage.given_flags(context, flags)
    if wrong := usage.usage_error(flags, given) or best_of.usage_error(flags, given):
        context.fail(wrong)
    if flags.output == "-" and flags.as_json:
        context.fail("--json and '--output -' both want standard output.")
    paths = output_paths(flags.output, flags.batch_count, flags.output_begin_idx)
    for path in paths:
        if path is not None:
            check_writable(path)
    started, progress = time.monotonic(), Progress(flags.verbose, flags.quiet)
    best = best_of.BestOf(flags, paths[0], progress) if flags.best_of is not None else None
    drawing = assembly.read_drawing(flags, given)
    pipeline = opening.open_pipeline(
        flags,
        with_pulid=bool(drawing.subjects),
        note=progress.note,
        log=progress.log,
        on_step=progress.step,
    )
    inputs = [*usage.input_files(flags, pipeline), *(best.inputs() if best is not None else ())]
    for path in paths:
        if path is not None:
            check_not_input(path, inputs)
    jobs = best.jobs(pipeline, drawing) if best is not None else assembly.jobs_of(pipeline, drawing)
    for line in usage.idle_flags(flags, given, pipeline.dev):
        progress.note(line)
    if best is not None:
        best.draw(pipeline, jobs)
        return
    for path, picture in zip(paths, pipeline.draw(jobs), strict=True):
        data = save(picture, path, not flags.disable_image_metadata)
        if path is not None:
            report(picture, path, data, time.monotonic() - started, flags.as_json)
