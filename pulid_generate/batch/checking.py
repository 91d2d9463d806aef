"""All rows looked at, before anything loads: the pictures that they become, and every problem with
its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.records import Problem
from pulid_generate.assembly.opening import (
    check_preview,
    open_engine,
    open_pipeline,
    preview_file,
)
from pulid_generate.assembly.people import people_of
from pulid_generate.assembly.progress import Progress
from pulid_generate.assembly.usage import doubtful_flags, idle_flags, input_files
from pulid_generate.batch.judging import MergedRow, RowJobs, Rows
from pulid_generate.batch.row_files import InputFiles
from pulid_generate.errors import OutputError, PulidError
from pulid_generate.flags.generation.placement import PlacementFlags
from pulid_generate.rows.items import Item
from pulid_generate.rows.row import BY_ROW, Row

# On a cluster placement is each worker's own affair: this process draws nothing, and may have no
# GPU
UNPLACED: dict[str, Any] = {
    item.name: item.default for item in fields(PlacementFlags) if item.name not in BY_ROW
} | {"device": "cpu"}


class RowChecker:
    """Finds the problems of all rows, so that one look shows all that is to be mended."""

    def __init__(self, rows: Rows, progress: Progress, problems: Iterable[Problem] = ()):
        """problems: those that reading the rows found."""
        self.rows, self.progress = rows, progress
        self.problems = list(problems)

    def merge(self, rows: Sequence[Row]) -> dict[int, MergedRow]:
        """The rows by their numbers."""
        merged = {}
        for row in rows:
            try:
                merged[row.number] = self.rows.merge(row)
            except PulidError as error:
                self.problems.append(row.problem(error))
        return merged

    def open(self, merged: Mapping[int, MergedRow]) -> RowJobs | None:
        """What draws the rows, with no model loaded; None, with problems, if files are missing and
        rows are wrong as well. Raises PulidError if only files are missing.
        """
        flags, progress = self.rows.flags, self.progress
        with_pulid = any(people_of(one.flags) for one in merged.values())
        try:
            if self.rows.on_cluster:
                unplaced = replace(flags, **UNPLACED)
                pipeline = open_pipeline(unplaced, with_pulid=with_pulid, progress=progress)
                return RowJobs(self.rows, pipeline, None)
            pipeline, engine = open_engine(flags, with_pulid=with_pulid, progress=progress)
            return RowJobs(self.rows, pipeline, engine)
        except PulidError as error:
            for one in merged.values():
                try:
                    self.rows.read(one)
                except PulidError as wrong:
                    self.problems.append(one.row.problem(wrong))
            if not self.problems:
                raise
            self.problems.append(Problem(str(error)))
            return None

    def items(self, merged: Mapping[int, MergedRow], jobs: RowJobs) -> list[Item]:
        """The pictures of all rows that are right. Raises OutputError for a sheet or a preview that
        would take the place of a file that is read, or of a picture.
        """
        inputs, items = InputFiles(), []
        idle: dict[str, None] = {}
        for one in merged.values():
            try:
                items += jobs.items(one)
                inputs.add(input_files(one.flags, jobs.pipeline))
                inputs.add(path_of(name) for name in one.flags.reference or ())
                idle |= dict.fromkeys(idle_flags(one.flags, one.given, jobs.pipeline.dev))
                idle |= dict.fromkeys(doubtful_flags(one.flags))
            except PulidError as error:
                self.problems.append(one.row.problem(error))
        for item in items:
            try:
                inputs.check(item.path)
            except OutputError as error:
                self.problems.append(merged[item.number].row.problem(error))
        if self.rows.flags.sheet is not None:
            inputs.check(path_of(self.rows.flags.sheet))
        check_preview(self.rows.flags, (item.path for item in items))
        if (preview := preview_file(self.rows.flags)) is not None:
            inputs.check(preview)
        for line in idle:
            self.progress.note(line)
        return items
