"""Where pictures go: the names of several, and what is printed of each. Knows no model. Imports no
torch.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulid_extract.shared.cli import console
from pulid_extract.shared.writing import write_atomically
from pulid_generate.errors import OutputError, RequestError
from pulid_generate.pictures.picture import Picture, format_of
from pulid_generate.request.generation import check_batch_count
from pulid_generate.request.job import Job

# as sd-cli: out_%03d.png, and %% is a per cent sign
NUMBER = re.compile(r"%%|%(\d{0,3})d")


def output_paths(output: str, count: int, begin: int | None = None) -> Sequence[Path | None]:
    """Where each picture goes; None is standard output. As sd-cli: %03d is a number, else several
    get _0, _1, .. before the suffix.

    begin: the first number, None or less than 0 for 0 (sd-cli's default is -1). Raises RequestError
    or OutputError.
    """
    # before there are so many names
    check_batch_count(count)
    if output == "-":
        if count > 1:
            raise RequestError(
                "output -: standard output takes one picture; leave --batch-count out or name a "
                "file"
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
    if count == 1:
        return [path]
    return [path.with_stem(f"{path.stem}_{index}") for index in numbers]


def _numbered(output: str, index: int) -> str:
    return NUMBER.sub(lambda match: "%" if match[0] == "%%" else f"{index:{match[1]}d}", output)


def encoded(picture: Picture, path: Path | None, metadata: bool) -> bytes:
    """The bytes of the picture's file, in the format of its name. None: standard output, as PNG."""
    return picture.encode(format_of(path) if path is not None else "PNG", metadata)


def save(picture: Picture, path: Path | None, metadata: bool) -> bytes:
    """Write the picture's file, complete or not at all, and return its bytes. None: standard
    output, as PNG. Raises OutputError.
    """
    data = encoded(picture, path, metadata)
    if path is None:
        console.write_result(data)
    else:
        write_atomically(path, data)
    return data


@dataclass(frozen=True)
class SavedPicture:
    """What --json prints of a picture."""

    output: Path
    # of the file
    sha256: str
    job: Job
    # since the command was started
    seconds: float
    # pixels, (width, height)
    size: tuple[int, int]
    # in what the models computed
    arithmetic: str

    @classmethod
    def of(cls, job: Job, path: Path, data: bytes, seconds: float, arithmetic: str) -> SavedPicture:
        """data: the file's bytes."""
        from PIL import Image

        with Image.open(io.BytesIO(data)) as picture:
            size = picture.size
        return cls(path, hashlib.sha256(data).hexdigest(), job, seconds, size, arithmetic)

    def as_dict(self) -> dict[str, Any]:
        """As it is printed. identity: the first person; identities: where there are several."""
        request = self.job.request
        width, height = self.size
        identities = [subject.embedding.sha256 for subject in self.job.subjects]
        line: dict[str, Any] = {
            "output": str(self.output),
            "sha256": self.sha256,
            "seed": self.job.seed,
            "width": width,
            "height": height,
            "steps": self.job.steps,
            "identity": identities[0] if identities else None,
            "id_weight": request.id_weight if identities else None,
            "arithmetic": self.arithmetic,
            "seconds": round(self.seconds, 3),
        }
        if len(identities) > 1:
            line["identities"] = identities
        return line


def report(picture: Picture, path: Path, data: bytes, seconds: float, as_json: bool) -> None:
    """Print the line that a picture gets on standard output: its path, or JSON."""
    if not as_json:
        console.write_line(str(path))
        return
    saved = SavedPicture.of(picture.job, path, data, seconds, picture.arithmetic)
    console.write_line(json.dumps(saved.as_dict()))
