"""What a batch gives beside its pictures: how like a person each is, and a sheet of all. Both from
its results, whoever drew the pictures.

Pictures are scored once all are drawn, because the program that does it has models of its own to
load; the scores are lines of their own.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pulid_extract.shared.cli import console
from pulid_extract.shared.embedding_file import read_embedding
from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.writing import check_writable, make_folder
from pulid_generate.assembly import opening
from pulid_generate.assembly.people import identity_files
from pulid_generate.assembly.progress import Progress
from pulid_generate.assembly.references import references_of
from pulid_generate.batch.judging import Rows
from pulid_generate.batch.lines import PictureResult, Result, ScoreResult, SheetResult
from pulid_generate.batch.running import ResultLog
from pulid_generate.errors import InputError, OutputError, PulidError
from pulid_generate.flags.commands.tables import BatchFlags
from pulid_generate.pictures.picture import format_of
from pulid_generate.pictures.score_lines import Score
from pulid_generate.pictures.scorer import Scorer
from pulid_generate.pictures.sheet import write_sheet
from pulid_generate.pictures.sheet_grid import SheetGrid, Thumbnail
from pulid_generate.rows.row import Row

NOT_DRAWN = "not drawn"


@dataclass(frozen=True)
class PictureOutcome:
    """One picture that was to be drawn, and what came of it."""

    row: Row
    # of the row, over the command's own
    flags: BatchFlags
    # whom it is compared with
    references: tuple[Path, ...]
    # None where it was to be random and nothing came
    seed: int | None
    # None for a picture that was not reached
    result: PictureResult | None = None
    # None for one that is not compared, or was not drawn
    score: Score | None = None

    @property
    def path(self) -> Path | None:
        """The file; None if there is none."""
        if self.result is None or self.result.output is None:
            return None
        return Path(self.result.output)

    def thumbnail(self, *facts: str, with_seed: bool = True) -> Thumbnail:
        """For the sheet. facts: further lines of its caption."""
        reason = ""
        if self.path is None:
            error = self.result.error if self.result is not None else None
            reason = error or NOT_DRAWN
        lines = [fact for fact in facts if fact]
        if self.seed is not None and with_seed:
            lines.insert(0, f"seed {self.seed}")
        if self.score is not None:
            lines.append(_likeness(self.score))
        return Thumbnail(self.path, "\n".join(lines), reason)


def _likeness(score: Score) -> str:
    if score.status == "no face":
        return score.status
    if score.likeness is None:
        return "not scored"
    if score.stranger is None:
        return f"likeness {score.likeness:.2f}"
    return f"likeness {score.likeness:.2f}, stranger {score.stranger:.2f}"


Layout = Callable[[Sequence[PictureOutcome]], SheetGrid]


class ResultCollector:
    """Passes results on as they come, and finishes with scores and a sheet of them.

    rows: those that are drawn. sheet: the file, None for none. emit: gets every result. Raises
    PulidError for rows that cannot be compared, and for a sheet that cannot be written.
    """

    def __init__(
        self,
        batch: Rows,
        rows: Sequence[Row],
        sheet: str | None,
        progress: Progress,
        emit: Callable[[Result], None],
    ):
        self.flags, self.progress, self.emit = batch.flags, progress, emit
        self.rows = [(row, row.merged(batch.flags, batch.given)[0]) for row in rows]
        self.sheet = path_of(sheet) if sheet is not None else None
        # row's number -> its pictures so far
        self._results: dict[int, list[PictureResult]] = defaultdict(list)
        if self.sheet is not None:
            format_of(self.sheet)
            _check_sheet(self.sheet, batch.folder)

    def add(self, result: PictureResult) -> None:
        """The result of a picture, one at a time."""
        self._results[result.row].append(result)
        self.emit(result)

    def check_references(self) -> None:
        """Whether every reference has a face, before anything is drawn; says whose scores are by
        another network than made the person. Raises PulidError.
        """
        references: dict[Path, None] = {}
        people: dict[str, None] = {}
        for _, flags in self.rows:
            if own := references_of(flags):
                references |= dict.fromkeys(own)
                people |= dict.fromkeys(identity_files(flags))
        if not references:
            return
        paths = list(references)
        judges, scores = self._scorer(paths[:1]).judged(paths)
        for path, score in zip(paths, scores, strict=True):
            if score.likeness is None:
                reason = score.error or score.status
                raise InputError(f"reference {path}: {reason}; give another picture")
        for name in people:
            # a file that cannot be read is said where its row is judged
            with contextlib.suppress(PulidError):
                for note in judges.notes_on(read_embedding(name)):
                    self.progress.note(note)

    def draw_and_finish(self, draw: Callable[[], ResultLog], layout: Layout) -> ResultLog:
        """Draw, then finish; an interrupted run has its sheet, of what is there, without scores."""
        try:
            tally = draw()
        except KeyboardInterrupt:
            self.finish(layout, scored=False)
            raise
        self.finish(layout)
        return tally

    def finish(self, layout: Layout, scored: bool = True) -> None:
        """Score what was drawn, emit the scores, write the sheet. scored: False leaves the scores
        out. Raises PulidError.
        """
        outcomes: list[PictureOutcome] = []
        for row, flags in self.rows:
            outcomes += self._outcomes(row, flags)
        failure = None
        if scored:
            try:
                outcomes = self._score(outcomes)
            # raised after the sheet, which shows the pictures in any case
            except PulidError as error:
                failure = error
        if self.sheet is not None:
            with_faces = any(one.references for one in outcomes)
            self._write_sheet(self.sheet, layout(outcomes), mode=0o600 if with_faces else None)
        if failure is not None:
            raise failure

    def _outcomes(self, row: Row, flags: BatchFlags) -> list[PictureOutcome]:
        """Of all the row's pictures, by their seeds."""
        references = references_of(flags)
        drawn = [
            PictureOutcome(row, flags, references, result.seed, result)
            for result in self._results[row.number]
        ]
        if flags.seed < 0:
            missing: list[int | None] = [None] * max(0, flags.batch_count - len(drawn))
        else:
            wanted = range(flags.seed, flags.seed + flags.batch_count)
            missing = list(set(wanted) - {one.seed for one in drawn})
        lacking = [PictureOutcome(row, flags, references, seed) for seed in missing]
        drawn.sort(key=lambda one: -1 if one.seed is None else one.seed)
        return sorted(drawn + lacking, key=lambda one: one.seed or 0)

    def _score(self, outcomes: Sequence[PictureOutcome]) -> list[PictureOutcome]:
        """The outcomes with scores where there is something to score; pictures of the same
        references are scored together. Raises PulidError.
        """
        scored = list(outcomes)
        groups: dict[tuple[Path, ...], list[int]] = defaultdict(list)
        for index, one in enumerate(outcomes):
            if one.references and one.path is not None:
                groups[one.references].append(index)
        for references, indices in groups.items():
            pictures = [str(scored[index].path) for index in indices]
            scores = self._scorer(references).scores(pictures)
            for index, score in zip(indices, scores, strict=True):
                scored[index] = one = replace(scored[index], score=score)
                if one.result is not None:
                    self.emit(_score_result(one.result, score))
        return scored

    def _scorer(self, references: Sequence[Path]) -> Scorer:
        flags = replace(self.flags, reference=[str(path) for path in references])
        return opening.scorer_of(flags, flags.models_dir, self.progress.log)

    def _write_sheet(self, sheet: Path, grid: SheetGrid, mode: int | None) -> None:
        make_folder(sheet.parent)
        for path in write_sheet(sheet, grid, console.log, mode):
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            self.emit(SheetResult(str(path), sha256))


def _check_sheet(sheet: Path, folder: Path) -> None:
    """folder: of the pictures, which may not be made yet. Raises OutputError."""
    if sheet.parent.is_dir():
        check_writable(sheet)
    elif not sheet.parent.resolve().is_relative_to(folder.resolve()):
        raise OutputError(
            f"{sheet}: its folder is not there; make it, or name a file in --output-dir"
        )


def _score_result(picture: PictureResult, score: Score) -> ScoreResult:
    """The second line of a picture."""
    return ScoreResult(
        row=picture.row,
        line=picture.line,
        output=picture.output,
        sha256=picture.sha256,
        seed=picture.seed,
        likeness=score.likeness,
        stranger=score.stranger,
        faces=score.faces,
        error=score.error,
    )
