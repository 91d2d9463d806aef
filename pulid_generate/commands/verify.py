"""`pulid-generate verify`: the three-way check as a command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import typer

from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.flags import takes_flags
from pulid_extract.shared.writing import check_writable, write_atomically
from pulid_generate.errors import PulidError
from pulid_generate.flags.commands.tables import VerifyFlags


@takes_flags(VerifyFlags)
def verify(context: typer.Context, flags: VerifyFlags) -> None:
    """Prove the injection: draw without PuLID (A), with weight 0 (B) and with the weight given (C),
    compare SHA-256.

    Exit 0 only if A and B are the same file, byte for byte, and C is another picture. With --output
    FILE.png the pictures are kept as FILE_A.png, FILE_B.png and FILE_C.png.
    """
    from pulid_generate.assembly.opening import open_drawing
    from pulid_generate.assembly.people import people_of
    from pulid_generate.assembly.progress import Progress
    from pulid_generate.assembly.requests import read_drawing
    from pulid_generate.assembly.usage import given_flags, usage_error
    from pulid_generate.pictures.picture import format_of
    from pulid_generate.pictures.saving import output_paths
    from pulid_generate.pictures.three_way import (
        RUNS,
        as_table,
        compare,
        shell_script,
        subjects_of_runs,
    )

    if flags.script:
        console.write_result(shell_script())
        return
    given = given_flags(context, flags)
    if wrong := usage_error(flags, given):
        context.fail(wrong)
    if not people_of(flags):
        context.fail("Missing option '--pulid-id-embedding'.")
    if flags.batch_count != 1 or flags.output == "-" or flags.pulid_id_weight == 0:
        context.fail(
            "verify draws one picture with a weight other than 0 and writes files: "
            "no --batch-count, no '--output -', no weight 0."
        )
    [output] = output_paths(flags.output, 1)
    paths: dict[str, Path] = {}
    if "output" in given and output is not None:
        paths = {run: output.with_stem(f"{output.stem}_{run}") for run in RUNS}
    for path in paths.values():
        check_writable(path)
    progress = Progress(flags.verbose, flags.quiet)
    drawing = read_drawing(flags, given)
    pipeline = open_drawing(flags, given, paths.values(), with_pulid=True, progress=progress)
    jobs = [
        replace(drawing, subjects=subjects).job(pipeline)
        for subjects in subjects_of_runs(drawing.subjects)
    ]
    files, pixels = {}, {}
    for run, picture in zip(RUNS, pipeline.draw(jobs), strict=True):
        data = picture.encode(format_of(flags.output), not flags.disable_image_metadata)
        files[run], pixels[run] = data, picture.pixels
        if run in paths:
            write_atomically(paths[run], data)
    verdict = compare(files, pixels)
    console.write_line(json.dumps(verdict.as_dict()) if flags.as_json else as_table(verdict))
    if not verdict.passed:
        raise PulidError(f"verify: {verdict.reason}")
