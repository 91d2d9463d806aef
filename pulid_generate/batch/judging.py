"""One row judged before anything loads: it becomes pictures with names, or the reason why it
cannot. Reads headers and small files.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pulid_extract.shared.cluster.flags import ClusterFlags
from pulid_extract.shared.embedding_file import read_embedding
from pulid_extract.shared.file_names import path_of
from pulid_generate.assembly.people import identity_files
from pulid_generate.assembly.requests import Drawing, Readers, check_values, read_drawing
from pulid_generate.assembly.usage import usage_error
from pulid_generate.batch.row_files import CachedReader
from pulid_generate.errors import OutputError, PulidError, RequestError
from pulid_generate.flags.commands.tables import BatchFlags
from pulid_generate.lora.choice import file_sha256
from pulid_generate.pictures.picture import format_of, read_parameters
from pulid_generate.pictures.saving import output_paths
from pulid_generate.pictures.sheet import is_page
from pulid_generate.request.job import batch_key
from pulid_generate.rows.items import Item
from pulid_generate.rows.names import NamePattern, check_name, identity_word
from pulid_generate.rows.row import Row

if TYPE_CHECKING:
    from pulid_generate.pipeline.engine import Engine
    from pulid_generate.pipeline.pipeline import Pipeline
    from pulid_generate.request.job import Job


@dataclass(frozen=True)
class MergedRow:
    """A row with the command's flags below its own, its seed fixed."""

    row: Row
    flags: BatchFlags
    # The fields that the row or the command line gave
    given: frozenset[str]


class Rows:
    """Turns rows into what can be drawn."""

    def __init__(self, flags: BatchFlags, given: frozenset[str]):
        """flags: the command's. given: which of them stood on the command line. Raises RequestError
        for values that no row could be drawn with, and it or OutputNameError for an invalid name
        pattern.
        """
        self.flags, self.given = flags, given
        self.folder = path_of(flags.output_dir)
        self.pattern = NamePattern(flags.name)
        check_values(flags)
        self.on_cluster = isinstance(flags, ClusterFlags) and flags.ray is not None
        self._readers = Readers(CachedReader(read_embedding), CachedReader(file_sha256))

    def merge(self, row: Row) -> MergedRow:
        """Raises RequestError for a row that lacks something, or holds what means nothing."""
        flags, given = row.merged(self.flags, self.given)
        if wrong := usage_error(flags, given):
            raise RequestError(wrong[:1].lower() + wrong[1:].removesuffix("."))
        if flags.seed < 0:  # now: the row is read more than once
            flags = replace(flags, seed=secrets.randbelow(2**31))
        if self.flags.resume and flags.disable_image_metadata:
            raise RequestError(
                "--resume reads the pictures' metadata; leave --disable-image-metadata out"
            )
        if flags.reference and self.flags.manifest == "-":
            raise RequestError(
                "reference: a line is answered when its picture is drawn; "
                "score pictures with 'pulid-extract score'"
            )
        if "output" in row.values:
            check_name(flags.output)
        return MergedRow(row, flags, given)

    def read(self, merged: MergedRow) -> Drawing:
        """What the row's files hold. Raises PulidError."""
        return read_drawing(merged.flags, merged.given, self._readers)

    def paths(self, merged: MergedRow, first: Job) -> list[Path]:
        """Where the row's pictures go. first: the job of the first one. Raises OutputError."""
        flags, request = merged.flags, first.request
        width, height = request.final_size
        if "output" in merged.row.values:
            given = output_paths(flags.output, flags.batch_count, flags.output_begin_idx)
            names = [str(name) for name in given]
        else:
            facts = {
                "row": merged.row.number,
                "identity": identity_word(identity_files(flags)),
                "prompt": request.prompt,
                "weight": request.id_weight,
                "width": width,
                "height": height,
            }
            names = []
            for index in range(request.batch_count):
                own = {"index": index, "seed": request.seed + index}
                names.append(self.pattern.name(facts | own))
        for name in names:
            format_of(check_name(name))
        return [self.folder / name for name in names]


class RowJobs:
    """The pictures of rows, as one pipeline draws them."""

    def __init__(self, rows: Rows, pipeline: Pipeline, engine: Engine | None):
        """engine: None where this process draws nothing: whether a job fits, and in what tiles, is
        then for a worker to say.
        """
        self.rows, self.pipeline, self.engine = rows, pipeline, engine
        # Name of a picture -> whose it is
        self._taken: dict[str, str] = {}

    def job(self, merged: MergedRow, index: int) -> Job:
        """The row's picture number `index`, from what its files hold now. Raises PulidError."""
        first = self.rows.read(merged).job(self.pipeline)
        if self.engine is not None:
            first = self.engine.expect(first)
        return first.numbered(index)

    def items(self, merged: MergedRow) -> list[Item]:
        """The row's pictures: named, and looked for if the run is resumed. Raises PulidError."""
        first, row = self.job(merged, 0), merged.row
        resumed = self.rows.flags.resume and self.engine is not None
        identities = tuple(subject.embedding.sha256 for subject in first.subjects)
        key = batch_key(first)
        items = []
        for index, path in enumerate(self.rows.paths(merged, first)):
            job = first.numbered(index)
            parameters = self.pipeline.parameters(job) if resumed else None
            items.append(
                Item(
                    number=row.number,
                    line=row.line,
                    index=index,
                    path=path,
                    seed=job.seed,
                    identities=identities,
                    loras=job.loras,
                    key=key,
                    prompts=job.all_prompts,
                    metadata=not merged.flags.disable_image_metadata,
                    done=_drawn_before(path, parameters) if parameters is not None else None,
                )
            )
        self._take(row, items)
        return items

    def forget_names(self) -> None:
        """Let later rows write what earlier ones wrote."""
        self._taken.clear()

    def _take(self, row: Row, items: Sequence[Item]) -> None:
        """Raise OutputError for a name that another picture has, or that cannot be written."""
        sheet = self.rows.flags.sheet
        for item in items:
            # some file systems take A and a for one name
            name = str(item.path.relative_to(self.rows.folder)).casefold()
            label = row.where if len(items) == 1 else f"{row.where}, picture {item.index}"
            first = self._taken.setdefault(name, label)
            if first != label:
                raise OutputError(
                    f"would be written to {item.path}, as {first} is; "
                    "give each an output of its own, or --name"
                )
            if item.path.is_dir():
                raise OutputError(f"{item.path}: is a folder; give a file name")
            if sheet is not None and is_page(item.path, path_of(sheet)):
                raise OutputError(
                    f"{item.path}: is where the sheet goes; give --sheet another name"
                )


def parameters_in(path: Path) -> tuple[str, str] | None:
    """(parameters, SHA-256) of a picture that is whole; None for a damaged one, or none."""
    try:
        data = path.read_bytes()
        return read_parameters(data) or "", hashlib.sha256(data).hexdigest()
    except (OSError, PulidError):
        return None


def _drawn_before(path: Path, parameters: str) -> str | None:
    """The SHA-256 of a picture that carries exactly these parameters; None for another, a damaged
    one, or none.
    """
    found = parameters_in(path)
    return found[1] if found is not None and found[0] == parameters else None
