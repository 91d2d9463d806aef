"""Where pictures go: the names of several, one line of facts about each. Knows no model. Imports no
torch.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pulid_extract.shared.cli import console
from pulid_extract.shared.writing import write_atomically
from pulid_generate.errors import OutputError, RequestError
from pulid_generate.pictures.picture import Picture, format_of
from pulid_generate.request.generation import check_batch_count
from pulid_generate.request.job import Job

NUMBER = re.compile(r"%%|%(\d{0,3})d")  # as sd-cli: out_%03d.png, and %% is a per cent sign


def output_paths(output: str, count: int, begin: int | None = None) -> Sequence[Path | None]:
    """Where each picture goes; None is standard output. As sd-cli: %03d is a number, else several
    get _0, _1, .. before the suffix.

    begin: the first number, None or less than 0 for 0 (sd-cli's default is -1). Raises RequestError
    or OutputError.
    """
    check_batch_count(count)  # before there are so many names
    if output == "-":
        if count > 1:
            raise RequestError(
                "output -: standard output takes one picture; leave --batch-count out or name a file"
            )
        if sys.stdout is not None and sys.stdout.isatty():
            raise OutputError(
                "output -: standard output is a terminal; redirect it to a file or a pipe"
            )
        return [None]
    format_of(output)
    first = max(begin or 0, 0)
    numbers = range(first, first + count)
    if any(match[1] is not None for match in NUMBER.finditer(output)):
        return [Path(_numbered(output, index)) for index in numbers]
    path = Path(output)
    return [path] if count == 1 else [path.with_stem(f"{path.stem}_{index}") for index in numbers]


def _numbered(output: str, index: int) -> str:
    return NUMBER.sub(lambda match: "%" if match[0] == "%%" else f"{index:{match[1]}d}", output)


def encoded(picture: Picture, path: Path | None, metadata: bool) -> bytes:
    """The bytes of the picture's file, in the format of its name. None: standard output, as PNG."""
    return picture.encode(format_of(path) if path is not None else "PNG", metadata)


def store(path: Path, data: bytes) -> None:
    """Write a picture's file, complete or not at all. Raises OutputError."""
    write_atomically(path, data)


def save(picture: Picture, path: Path | None, metadata: bool) -> bytes:
    """Write the picture's file, complete or not at all, and return its bytes. None: standard
    output, as PNG. Raises OutputError.
    """
    data = encoded(picture, path, metadata)
    if path is None:
        console.write_result(data)
    else:
        store(path, data)
    return data


def facts(job: Job, path: Path, data: bytes, seconds: float) -> dict[str, Any]:
    """What --json prints of a job's picture."""
    shown: dict[str, Any] = {
        "output": str(path),
        "sha256": hashlib.sha256(data).hexdigest(),
        "seed": job.seed,
        "width": job.request.width,
        "height": job.request.height,
        "steps": job.steps,
        "identity": job.subjects[0].embedding.sha256 if job.subjects else None,
        "id_weight": job.request.id_weight if job.subjects else None,
        "seconds": round(seconds, 3),
    }
    if len(job.subjects) > 1:
        shown["identities"] = [subject.embedding.sha256 for subject in job.subjects]
    return shown


def report(picture: Picture, path: Path, data: bytes, seconds: float, as_json: bool) -> None:
    """The line that a picture gets on standard output."""
    console.write_line(
        json.dumps(facts(picture.job, path, data, seconds)) if as_json else str(path)
    )
