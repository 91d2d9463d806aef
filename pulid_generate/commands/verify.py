"""`pulid-generate verify`: the three-way check as a command."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.flags import takes_flags
from pulid_extract.shared.writing import check_not_input, check_writable, write_atomically
from pulid_generate.errors import PulidError
from pulid_generate.flags.commands import Flags


@takes_flags(Flags)
def verify(context: typer.Context, flags: Flags) -> None:
    """Prove the injection: draw without PuLID (A), with weight 0 (B) and with the weight given (C),
    compare SHA-256.

    Exit 0 only if A and B are the same file, byte for byte, and C is another picture. With --output
    FILE.png the pictures are kept as FILE_A.png, FILE_B.png and FILE_C.png.
    """
    from pulid_generate.assembly import opening, usage
    from pulid_generate.assembly import requests as assembly
    from pulid_generate.assembly.progress import Progress
    from pulid_generate.pictures.picture import format_of
    from pulid_generate.pictures.saving import output_paths
    from pulid_generate.pictures.three_way import as_table, compare, three_casts

    given = usage.given_flags(context, flags)
    if wrong := usage.usage_error(flags, given):
        context.fail(wrong)
    if flags.pulid_id_embedding is None and not flags.identity:
        context.fail("Missing option '--pulid-id-embedding'.")
    if flags.batch_count != 1 or flags.output == "-" or flags.pulid_id_weight == 0:
        context.fail(
            "verify draws one picture with a weight other than 0 and writes files: no --batch-count, no '--output -', no weight 0."
        )
    [output] = output_paths(flags.output, 1)
    paths: dict[str, Path] = {}
    if "output" in given and output is not None:
        paths = {run: output.with_stem(f"{output.stem}_{run}") for run in "ABC"}
    for path in paths.values():
        check_writable(path)
    progress = Progress(flags.verbose, flags.quiet)
    drawing = assembly.read_drawing(flags, given)
    pipeline = opening.open_pipeline(
        flags, with_pulid=True, note=progress.note, log=progress.log, on_step=progress.step
    )
    inputs = list(usage.input_files(flags, pipeline))
    for path in paths.values():
        check_not_input(path, inputs)
    for line in usage.idle_flags(flags, given, pipeline.dev):
        progress.note(line)
    jobs = [
        job
        for subjects in three_casts(drawing.subjects)
        for job in pipeline.jobs(drawing.request, subjects, drawing.start, drawing.loras)
    ]
    files, pixels = {}, {}
    for run, picture in zip("ABC", pipeline.draw(jobs), strict=True):
        files[run] = picture.encode(
            format_of(flags.output), metadata=not flags.disable_image_metadata
        )
        pixels[run] = picture.pixels
        if run in paths:
            write_atomically(paths[run], files[run])
    verdict = compare(files, pixels)
    console.write_line(json.dumps(verdict.as_dict()) if flags.as_json else as_table(verdict))
    if not verdict.passed:
        raise PulidError(f"verify: {verdict.reason}")
