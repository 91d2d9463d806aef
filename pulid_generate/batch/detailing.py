"""`pulid-generate detail`: the detail pass alone, over pictures that are there. Models load once
for all of them; one that fails does not stop the rest.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pulid_extract.shared.cli import console
from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.writing import (
    check_not_input,
    check_writable,
    make_folder,
    write_atomically,
)
from pulid_generate.assembly import opening
from pulid_generate.assembly.detail import with_own_prompt
from pulid_generate.assembly.people import people_of
from pulid_generate.assembly.progress import Progress
from pulid_generate.assembly.references import SUFFIXES
from pulid_generate.assembly.requests import Drawing, read_faces_drawing
from pulid_generate.assembly.usage import (
    faces_usage_error,
    given_flags,
    idle_faces_flags,
    input_files,
)
from pulid_generate.errors import InputError, OutputError, PulidError
from pulid_generate.flags.commands.tables import DetailCommandFlags
from pulid_generate.pictures import picture as picture_files
from pulid_generate.pictures.picture import format_of
from pulid_generate.pictures.saving import encoded
from pulid_generate.pipeline.callers import Caller, Denoised
from pulid_generate.request.conditions.start_picture import read_picture
from pulid_generate.request.prompts.tokens import Prompt

if TYPE_CHECKING:
    import numpy as np

    from pulid_generate.pipeline.pipeline import Pipeline
    from pulid_generate.request.job import Job


@dataclass(frozen=True, eq=False)
class Given:
    """One picture to work on."""

    path: Path
    output: Path
    # of the file
    data: bytes


def run(context: typer.Context, flags: DetailCommandFlags) -> None:
    """The command."""
    given = given_flags(context, flags)
    if wrong := _usage_error(flags, given):
        context.fail(wrong)
    progress = Progress(flags.verbose, flags.quiet)
    pictures = _pictures(flags)
    pipeline = opening.open_pipeline(flags, with_pulid=bool(people_of(flags)), progress=progress)
    inputs = [*input_files(flags, pipeline), *(one.path for one in pictures)]
    inputs += [Path(name).expanduser() for name in flags.reference or ()]
    for one in pictures:
        check_not_input(one.output, inputs)
        check_writable(one.output)
    opening.check_preview(flags, (one.output for one in pictures))
    if (preview := opening.preview_file(flags)) is not None:
        check_not_input(preview, inputs)
    for line in idle_faces_flags(flags, given, pipeline.dev):
        progress.note(line)
    faces = _FaceRun(flags, given, pipeline)
    faces.draw(pictures)
    if faces.failures:
        count = console.counted(len(pictures), "picture")
        raise PulidError(
            f"{faces.failures} of {count} failed, listed above; the others are written"
        )


def _usage_error(flags: DetailCommandFlags, given: frozenset[str]) -> str | None:
    if wrong := faces_usage_error(flags, given):
        return wrong
    if "output" in given and flags.output_dir is not None:
        return "--output and --output-dir both say where it goes; leave one of them out."
    if flags.output == "-":
        return "--output is a file here."
    return None


def _pictures(flags: DetailCommandFlags) -> list[Given]:
    """The files, folders opened, each with its output. Raises InputError, OutputError."""
    paths: list[Path] = []
    for name in flags.pictures:
        path = path_of(name)
        if not path.is_dir():
            paths.append(path)
            continue
        inside = [one for one in sorted(path.iterdir()) if one.suffix.lower() in SUFFIXES]
        if not inside:
            raise InputError(f"{name}: holds no picture; expected .png, .jpg, .webp or the like")
        paths += inside
    if flags.output_dir is None and len(paths) > 1:
        raise OutputError(
            f"{len(paths)} pictures: give --output-dir FOLDER, --output is a single file"
        )
    outputs = [path_of(flags.output)]
    if flags.output_dir is not None:
        folder = make_folder(path_of(flags.output_dir), advice="give another --output-dir")
        outputs = [folder / _name_of(path) for path in paths]
    taken: dict[Path, Path] = {}
    for path, output in zip(paths, outputs, strict=True):
        format_of(output)
        first = taken.setdefault(output, path)
        if first != path:
            raise OutputError(f"{path}: would be written to {output}, as {first} is; rename one")
    return [Given(path, taken_by, _read(path)) for taken_by, path in taken.items()]


def _name_of(path: Path) -> str:
    """The picture's own name; a PNG of a format that is not written here."""
    known = path.suffix.lower() in picture_files.SUFFIXES
    return path.name if known else f"{path.stem}.png"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


class _FaceRun(Caller[Given]):
    """Works on pictures, writes each, and says so."""

    def __init__(self, flags: DetailCommandFlags, given: frozenset[str], pipeline: Pipeline):
        self.flags, self.given, self.pipeline = flags, given, pipeline
        self.failures = 0
        self._jobs: dict[Given, Job] = {}
        self._started = time.monotonic()

    def draw(self, pictures: Sequence[Given]) -> None:
        """All of them. Raises PulidError for what stops all."""
        with self.pipeline.engine(staying="autoencoder") as engine:
            work = []
            for one in pictures:
                try:
                    pixels = read_picture(one.path)
                    job = engine.expect_faces(self._drawing(one, pixels).job(self.pipeline))
                except InputError as error:
                    self.failed(one, error)
                    continue
                self._jobs[one] = job
                work.append((one, self.pipeline.given_picture(job, pixels)))
            for denoised in engine.redraw_faces(work, self):
                self._finish(denoised)

    def _drawing(self, one: Given, pixels: np.ndarray) -> Drawing:
        height, width = pixels.shape[:2]
        flags = with_own_prompt(self.flags, one.data)
        return read_faces_drawing(flags, self.given, width, height)

    def _finish(self, denoised: Denoised[Given]) -> None:
        one = denoised.item
        try:
            picture = denoised.decode()
            data = encoded(picture, one.output, not self.flags.disable_image_metadata)
            write_atomically(one.output, data)
        except PulidError as error:
            self.failed(one, error)
            return
        if not self.flags.as_json:
            console.write_line(str(one.output))
            return
        height, width = picture.pixels.shape[:2]
        line: dict[str, Any] = {
            "picture": str(one.path),
            "output": str(one.output),
            "sha256": hashlib.sha256(data).hexdigest(),
            "seed": denoised.job.seed,
            "width": width,
            "height": height,
            "identities": [person.embedding.sha256 for person in denoised.job.subjects],
            "seconds": round(time.monotonic() - self._started, 3),
        }
        console.write_line(json.dumps(line))

    # ------------------------------------------------------------------------- what the engine asks

    def prompts(self, item: Given) -> Sequence[Prompt]:
        return self._jobs[item].all_prompts

    def job(self, item: Given) -> Job:
        return self._jobs[item]

    def label(self, items: Sequence[Given]) -> str:
        return items[0].path.name

    def failed(self, item: Given, error: PulidError) -> None:
        self.failures += 1
        where, text = str(item.path), str(error)
        console.log(text if text.startswith(where) else f"{where}: {text}")
