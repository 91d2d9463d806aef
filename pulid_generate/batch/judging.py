"""Rows judged before anything loads: each becomes pictures with a name, or a problem with its line
number. Reads headers and small files.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pulid_extract.shared.cluster.flags import ClusterFlags
from pulid_extract.shared.embedding_file import read_embedding
from pulid_extract.shared.records import Problem
from pulid_generate.assembly import requests as assembly
from pulid_generate.assembly import usage
from pulid_generate.assembly.people import identity_files
from pulid_generate.errors import OutputError, PulidError, RequestError
from pulid_generate.flags.commands import BatchFlags
from pulid_generate.lora.choice import file_sha256
from pulid_generate.pictures.sheet import is_page
from pulid_generate.rows.items import Item
from pulid_generate.rows.names import NamePattern, check_name, identity_word
from pulid_generate.rows.row import Row

if TYPE_CHECKING:
    from pulid_generate.pipeline.pipeline import Pipeline
    from pulid_generate.pipeline.session import Session
    from pulid_generate.request.job import Job
from typing import TYPE_CHECKING

from pulid_generate.assembly.progress import Progress

if TYPE_CHECKING:
    from pulid_generate.pipeline.pipeline import Pipeline
    from pulid_generate.pipeline.session import Session
from dataclasses import fields

from pulid_generate.assembly.opening import open_session
from pulid_generate.flags.placement import PlacementFlags
from pulid_generate.pipeline.pipeline import Pipeline
from pulid_generate.pipeline.session import Session
from pulid_generate.request.job import Job
from pulid_generate.rows.row import BY_ROW

REMEMBERED = 64  # files of identities, 0.3 MB each, and hashes of LoRAs
Value = TypeVar("Value")


class Remembered:
    """What was read of a file, until the file changes. At most `REMEMBERED` of them; the longest
    unused go first.
    """

    def __init__(self, read: Callable[[Any], Value]):
        self._read = read
        self._known: OrderedDict[tuple[object, ...], Any] = OrderedDict()

    def __call__(self, name: Any) -> Any:
        try:
            seen = Path(name).expanduser().stat()
        except OSError:
            return self._read(name)  # which says what is wrong
        key = str(name), seen.st_size, seen.st_mtime_ns, seen.st_ino
        if key not in self._known:
            self._known[key] = self._read(name)
        self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return self._known[key]


@dataclass(frozen=True)
class Asked:
    """A row with the command's flags below its own, its seed fixed. given: the fields that were
    given.
    """

    row: Row
    flags: BatchFlags
    given: frozenset[str]


class Rows:
    """Turns rows into what can be drawn. flags: the command's; given: which of them stood on the
    command line.
    """

    def __init__(self, flags: BatchFlags, given: frozenset[str]):
        """Raises RequestError or OutputError for a name pattern that cannot be."""
        self.flags, self.given = flags, given
        self.folder = Path(flags.output_dir).expanduser()
        self.pattern = NamePattern(flags.name)
        self.on_cluster = isinstance(flags, ClusterFlags) and flags.ray is not None
        self._readers = assembly.Readers(Remembered(read_embedding), Remembered(file_sha256))
        self._taken: dict[str, str] = {}

    def ask(self, row: Row) -> Asked:
        """Raises RequestError for a row that lacks something, or holds what means nothing."""
        flags, given = row.merged(self.flags, self.given)
        wrong = usage.usage_error(flags, given)
        if wrong:
            raise RequestError(wrong[:1].lower() + wrong[1:].removesuffix("."))
        if flags.seed < 0:  # now: the row is read more than once
            flags = replace(flags, seed=secrets.randbelow(2**31))
        if self.flags.resume and flags.disable_image_metadata:
            raise RequestError(
                "--resume reads the pictures' metadata; leave --disable-image-metadata out"
            )
        if flags.reference and self.flags.manifest == "-":
            raise RequestError(
                "reference: a line is answered when its picture is drawn; score pictures with 'pulid-extract score'"
            )
        if "output" in row.values:
            check_name(flags.output)
        return Asked(row, flags, given)

    def read(self, asked: Asked) -> assembly.Drawing:
        """What the row's files hold. Raises PulidError."""
        return assembly.read_drawing(asked.flags, asked.given, self._readers)

    def jobs(self, asked: Asked, pipeline: Pipeline, session: Session) -> list[Job]:
        """The row's pictures, as the pipeline draws them. Raises PulidError."""
        return [session.expect(job) for job in assembly.jobs_of(pipeline, self.read(asked))]

    def finder(
        self, asked: Mapping[int, Asked], pipeline: Pipeline, session: Session
    ) -> Callable[[Item], Job]:
        """Gives the job of an item of these rows, from what its files hold now."""
        return lambda item: self.jobs(asked[item.number], pipeline, session)[item.index]

    def items(self, asked: Asked, pipeline: Pipeline, session: Session) -> list[Item]:
        """The row's pictures: named, and looked for if the run is resumed. Raises PulidError."""
        from pulid_generate.pipeline.texts import prompts_of
        from pulid_generate.request.job import batch_key

        items = []
        jobs = self.jobs(asked, pipeline, session)
        for index, (job, path) in enumerate(zip(jobs, self._paths(asked, jobs), strict=True)):
            lengths = pipeline.t5_lengths(job)
            items.append(
                Item(
                    number=asked.row.number,
                    line=asked.row.line,
                    index=index,
                    path=path,
                    seed=job.seed,
                    identities=tuple(subject.embedding.sha256 for subject in job.subjects),
                    loras=job.loras,
                    key=batch_key(job, lengths),
                    prompts=tuple(prompts_of(job)),
                    metadata=not asked.flags.disable_image_metadata,
                    done=_there(path, pipeline.describe(job, lengths))
                    if self.flags.resume and not self.on_cluster
                    else None,
                )
            )
        self._take(asked.row, items)
        return items

    def forget_names(self) -> None:
        """Let later rows write what earlier ones wrote."""
        self._taken.clear()

    def _paths(self, asked: Asked, jobs: Sequence[Job]) -> list[Path]:
        from pulid_generate.pictures.picture import format_of
        from pulid_generate.pictures.saving import output_paths

        if "output" in asked.row.values:
            flags = asked.flags
            names = [
                str(name) for name in output_paths(flags.output, len(jobs), flags.output_begin_idx)
            ]
        else:
            files = identity_files(asked.flags)
            names = [
                self.pattern.name(
                    {
                        "row": asked.row.number,
                        "index": index,
                        "identity": identity_word(files),
                        "seed": job.seed,
                        "prompt": job.request.prompt,
                        "weight": job.request.id_weight,
                        "width": job.request.width,
                        "height": job.request.height,
                    }
                )
                for index, job in enumerate(jobs)
            ]
        for name in names:
            format_of(check_name(name))
        return [self.folder / name for name in names]

    def _take(self, row: Row, items: Sequence[Item]) -> None:
        """Raise OutputError for a name that another picture has, or that cannot be written."""
        for item in items:
            # some file systems take A and a for one name
            name = str(item.path.relative_to(self.folder)).casefold()
            label = row.where if len(items) == 1 else f"{row.where}, picture {item.index}"
            first = self._taken.setdefault(name, label)
            if first != label:
                raise OutputError(
                    f"would be written to {item.path}, as {first} is; give each an output of its own, or --name"
                )
            if item.path.is_dir():
                raise OutputError(f"{item.path}: is a folder; give a file name")
            if self.flags.sheet is not None and is_page(
                item.path, Path(self.flags.sheet).expanduser()
            ):
                raise OutputError(
                    f"{item.path}: is where the sheet goes; give --sheet another name"
                )


class Inputs:
    """Files that rows read, so that no picture takes the place of one. By inode: links and
    spellings of a name are one file.
    """

    def __init__(self) -> None:
        self._files: set[tuple[int, int]] = set()
        self._seen: set[Path] = set()

    def add(self, paths: Iterator[Path]) -> None:
        for path in paths:
            if path in self._seen:
                continue
            self._seen.add(path)
            self._files.update(
                mark
                for file in (path.iterdir() if path.is_dir() else [path])
                if (mark := _mark(file))
            )

    def check(self, output: Path) -> None:
        """Raise OutputError for an output that is one of them."""
        if _mark(output) in self._files:
            raise OutputError(f"{output}: is read as an input; give another name")


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_dev, seen.st_ino


def parameters_of(path: Path) -> tuple[str, str] | None:
    """(parameters, SHA-256) of a picture that is whole; None for a damaged one, or none."""
    from pulid_generate.pictures.picture import read_parameters

    try:
        data = path.read_bytes()
        return read_parameters(data) or "", hashlib.sha256(data).hexdigest()
    except (OSError, PulidError):
        return None


def _there(path: Path, parameters: str) -> str | None:
    """The SHA-256 of a picture that carries exactly these parameters; None for another, a damaged
    one, or none.
    """
    found = parameters_of(path)
    return found[1] if found is not None and found[0] == parameters else None


class RowChecker:
    """Every row looked at, before anything loads. problems: what was found."""

    def __init__(self, flags: BatchFlags, rows: Rows, progress: Progress, problems: list[Problem]):
        self.flags, self.rows, self.progress, self.problems = flags, rows, progress, problems

    def ask(self, found: Sequence[Row]) -> dict[int, Asked]:
        asked = {}
        for row in found:
            try:
                asked[row.number] = self.rows.ask(row)
            except PulidError as error:
                self.problems.append(row.problem(error))
        return asked

    def open(self, asked: dict[int, Asked]) -> tuple[Pipeline | None, Session | None]:
        """The pipeline, with no model loaded; None, with problems, if files are missing and rows
        are wrong as well.
        """
        someone = any(one.flags.pulid_id_embedding or one.flags.identity for one in asked.values())
        try:
            if self.rows.on_cluster:
                return open_judge(self.flags, someone, self.progress)
            return open_session(self.flags, someone, self.progress)
        except PulidError as error:
            for one in asked.values():
                try:
                    self.rows.read(one)
                except PulidError as wrong:
                    self.problems.append(one.row.problem(wrong))
            if not self.problems:
                raise
            self.problems.append(Problem(str(error)))
            return None, None

    def items(self, asked: dict[int, Asked], pipeline: Pipeline, session: Session) -> list[Item]:
        inputs, found = Inputs(), []
        idle: dict[str, None] = {}
        for one in asked.values():
            try:
                found += self.rows.items(one, pipeline, session)
                inputs.add(usage.input_files(one.flags, pipeline))
                inputs.add(Path(name).expanduser() for name in one.flags.reference or ())
                idle |= dict.fromkeys(usage.idle_flags(one.flags, one.given, pipeline.dev))
            except PulidError as error:
                self.problems.append(one.row.problem(error))
        for item in found:
            try:
                inputs.check(item.path)
            except OutputError as error:
                self.problems.append(asked[item.number].row.problem(error))
        if self.flags.sheet is not None:
            inputs.check(Path(self.flags.sheet).expanduser())
        for line in idle:
            self.progress.note(line)
        return found


# Placement is each worker's own affair: this process draws nothing, and may have no GPU.
ELSEWHERE: dict[str, Any] = {
    item.name: item.default for item in fields(PlacementFlags) if item.name not in BY_ROW
} | {"device": "cpu"}


class UnplacedSession(Session):
    """Makes no room for a job: whether it fits, and in what tiles, is for the worker to say."""

    def expect(self, job: Job) -> Job:
        return job


def open_judge(flags: BatchFlags, with_pulid: bool, progress: Progress) -> tuple[Pipeline, Session]:
    """What judges rows on a machine that will not draw them. Raises PulidError."""
    pipeline, session = open_session(replace(flags, **ELSEWHERE), with_pulid, progress)
    return pipeline, UnplacedSession(pipeline, session.cache, batch=flags.batch_size)
