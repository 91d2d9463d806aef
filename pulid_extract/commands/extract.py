"""`pulid-extract --portrait ... --out ...`: parse, check, call, write, print. What the program does
when no sub-command is named.

Standard output carries the result (the file's path, one JSON line, or the file itself), standard
error everything else. Everything is computed before the first output is written.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import typer

from pulid_extract.flags.extract import ONE_PORTRAIT, SEVERAL_PORTRAITS, ExtractFlags
from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.flags import takes_flags
from pulid_extract.shared.errors import require_packages
from pulid_extract.shared.writing import write_atomically

if TYPE_CHECKING:
    from pulid_extract.extraction.job import Job
    from pulid_extract.extraction.single import SingleExtraction


@takes_flags(ExtractFlags)
def extract(context: typer.Context, flags: ExtractFlags) -> None:
    """Turn portraits of a person into an identity file (.pulidembd), for pulid-generate and
    sd-cli.
    """
    if context.invoked_subcommand is not None:
        console.refuse_options(context)
        return
    if not flags.portrait or flags.out is None:
        context.fail(f"Missing option '{'--out' if flags.portrait else '--portrait'}'.")
    from pulid_extract.flags.face_choice import face_and_boxes

    choice, boxes = face_and_boxes(flags, context.fail)
    from pulid_extract.extraction.opening import PACKAGES

    require_packages(PACKAGES, "extract")
    from pulid_extract.extraction.job import read_job
    from pulid_extract.extraction.pictures import picture_paths
    from pulid_extract.extraction.single import extract_single
    from pulid_extract.flags.outputs import check_outputs
    from pulid_extract.pictures.sources import expand

    paths = expand(flags.portrait, console.log)
    _check_count(context, flags, len(paths))
    out = flags.out
    outputs = {"--out": out, **picture_paths(flags)}
    files = [flags.mask, flags.pulid_weights, flags.eva_clip, flags.retinaface, flags.bisenet]
    check_outputs(outputs, [path for path in (*paths, *files) if path and path != "-"])
    job = read_job(paths, flags, choice, boxes, console.log)
    extraction = extract_single(job, list(outputs.values()))
    # a face and its fingerprint are their owner's business
    for path, picture in extraction.pictures.items():
        write_atomically(path, picture, mode=0o600)
    line = _json_line(out, job, extraction) if flags.as_json else out
    if out != "-":
        write_atomically(out, extraction.result.data, mode=0o600)
        console.write_line(line)
        return
    console.write_result(extraction.result.data)
    if flags.as_json:
        typer.echo(line, err=True)


def _check_count(context: typer.Context, flags: ExtractFlags, portraits: int) -> None:
    """Wrong usage for flags about one portrait where there are several; says which of the others
    change nothing.
    """
    if portraits > 1:
        for name in ONE_PORTRAIT:
            if getattr(flags, name):
                context.fail(
                    f"{_flag(name)} is about the pixels of one portrait; {portraits} were given."
                )
        return
    for name in SEVERAL_PORTRAITS:
        if console.was_given(context, name):
            console.log(f"{_flag(name)} changes nothing: there is one portrait")


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _json_line(out: str, job: Job, extraction: SingleExtraction) -> str:
    from pulid_extract.extraction.results import report_of

    result = extraction.result
    files = {}
    for role, file in extraction.files.items():
        files[role] = {"path": str(file.path), "rule": file.rule}
    report = {
        "output": out,
        "sha256": hashlib.sha256(result.data).hexdigest(),
        **report_of(job, result),
        "tokens": list(result.shape),
        "uncond": result.has_uncond,
        "dtype": job.flags.dtype,
        "device": result.device,
        "arithmetic": result.arithmetic,
        "cached": result.is_cached,
        "files": files,
    }
    return json.dumps(report)
