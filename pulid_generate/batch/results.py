"""What a batch gives beside its pictures: how like a person each is, and a sheet of all. Both from
the lines of results, whoever drew them.

Pictures are scored once all are drawn, because the program that does it has models of its own to
load; the scores are lines of their own.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pulid_extract.shared.cli import console
from pulid_extract.shared.writing import check_writable, make_folder
from pulid_generate.assembly.people import identity_files
from pulid_generate.assembly.progress import Progress
from pulid_generate.batch.judging import Asked, Rows
from pulid_generate.batch.lines import PictureResult, Result, ScoreResult, SheetResult
from pulid_generate.batch.running import Tally
from pulid_generate.errors import InputError, OutputError, PulidError, RequestError
from pulid_generate.pictures.picture import format_of
from pulid_generate.pictures.scorer import Score, Scorer
from pulid_generate.pictures.sheet import write_sheet
from pulid_generate.pictures.sheet_grid import SheetGrid, Thumbnail
from pulid_generate.rows.row import Row

PORTRAITS = (".png", ".jpg", ".jpeg", ".webp", ".heic", ".avif", ".bmp", ".tif", ".tiff")
NOT_DRAWN = "not drawn"


@dataclass(frozen=True)
class Shown:
    """One picture that was to be drawn, and what came of it. seed: None where it was to be random
    and nothing came.
    """

    asked: Asked
    references: tuple[Path, ...]
    seed: int | None
    result: PictureResult | None = None
    score: Score | None = None

    @property
    def path(self) -> Path | None:
        if self.result is None or self.result.output is None:
            return None
        return Path(self.result.output)

    def tile(self, *facts: str, with_seed: bool = True) -> Thumbnail:
        """facts: further lines of its caption."""
        reason = ""
        if self.path is None:
            reason = (self.result.error if self.result is not None else None) or NOT_DRAWN
        seed = [f"seed {self.seed}"] if self.seed is not None and with_seed else []
        return Thumbnail(
            self.path, "\n".join([*seed, *filter(None, facts), *self._likeness()]), reason
        )

    def _likeness(self) -> list[str]:
        if self.score is None:
            return []
        if self.score.cosine is None:
            return [self.score.status if self.score.status == "no face" else "not scored"]
        stranger = (
            f", stranger {self.score.stranger:.2f}" if self.score.stranger is not None else ""
        )
        return [f"likeness {self.score.cosine:.2f}{stranger}"]


class Look:
    """Passes lines of results on, and finishes with scores and a sheet of them. Raises PulidError
    when made of what cannot be.

    found: the rows. tell: gets every line.
    """

    def __init__(
        self,
        rows: Rows,
        found: Sequence[Row],
        sheet: str | None,
        progress: Progress,
        tell: Callable[[Result], None],
    ):
        self.rows, self.progress, self._tell = rows, progress, tell
        self.asked = [Asked(row, *row.merged(rows.flags, rows.given)) for row in found]
        self.sheet = Path(sheet).expanduser() if sheet is not None else None
        self._results: dict[int, list[PictureResult]] = defaultdict(list)
        if self.sheet is not None:
            format_of(self.sheet)
            if self.sheet.parent.is_dir():  # else the pictures' folder, which is not made yet
                check_writable(self.sheet)
            elif not self.sheet.parent.resolve().is_relative_to(rows.folder.resolve()):
                raise OutputError(
                    f"{self.sheet}: its folder is not there; make it, or name a file in --output-dir"
                )

    def tell(self, result: PictureResult) -> None:
        """A line of results, one at a time."""
        self._results[result.row].append(result)
        self._tell(result)

    def check(self) -> None:
        """Whether every reference has a face, before anything is drawn. Raises PulidError."""
        references = list(dict.fromkeys(path for one in self.asked for path in references_of(one)))
        if not references:
            return
        scorer = self._scorer(references[:1])
        for path, score in zip(references, scorer.scores(references), strict=True):
            if score.cosine is None:
                raise InputError(
                    f"reference {path}: {score.error or score.status}; give another picture"
                )

    def around(
        self, layout: Callable[[Sequence[Shown]], SheetGrid], draw: Callable[[], Tally]
    ) -> Tally:
        """Draw, then finish; an interrupted run has its sheet, of what is there, without scores."""
        try:
            tally = draw()
        except KeyboardInterrupt:
            self.finish(layout, scored=False)
            raise
        self.finish(layout)
        return tally

    def finish(self, layout: Callable[[Sequence[Shown]], SheetGrid], scored: bool = True) -> None:
        """Score what was drawn, tell the scores, write the sheet. scored: False leaves the scores
        out. Raises PulidError.
        """
        shown = [one for each in self.asked for one in self._shown(each)]
        wrong = None
        if scored:
            try:
                shown = self._score(shown)
            except PulidError as error:
                wrong = error  # after the sheet, which shows the pictures in any case
        if self.sheet is not None:
            self._write(layout(shown), any(one.references for one in shown))
        if wrong is not None:
            raise wrong

    def _shown(self, asked: Asked) -> list[Shown]:
        references, flags = references_of(asked), asked.flags
        drawn = sorted(
            self._results[asked.row.number],
            key=lambda result: result.seed if result.seed is not None else -1,
        )
        if flags.seed < 0:
            missing: list[int | None] = [None] * max(0, flags.batch_count - len(drawn))
        else:
            missing = list(
                set(range(flags.seed, flags.seed + flags.batch_count))
                - {result.seed for result in drawn}
            )
        there = [Shown(asked, references, result.seed, result) for result in drawn]
        return sorted(
            [*there, *(Shown(asked, references, seed) for seed in missing)],
            key=lambda one: one.seed or 0,
        )

    def _score(self, shown: Sequence[Shown]) -> list[Shown]:
        found = list(shown)
        groups: dict[tuple[Path, ...], list[int]] = defaultdict(list)
        for index, one in enumerate(shown):
            if one.references and one.path is not None:
                groups[one.references].append(index)
        for references, indices in groups.items():
            scores = self._scorer(references).scores([str(found[index].path) for index in indices])
            for index, score in zip(indices, scores, strict=True):
                found[index] = one = replace(found[index], score=score)
                if one.result is not None:
                    self._tell(_scored(one.result, score))
        return found

    def _scorer(self, references: Sequence[Path]) -> Scorer:
        flags = self.rows.flags
        return Scorer(
            references=references,
            strangers=flags.stranger or (),
            models_dir=flags.models_dir,
            antelopev2=flags.antelopev2,
            recognizer=flags.recognizer,
            det_threshold=flags.det_threshold,
            log=self.progress.log,
        )

    def _write(self, grid: SheetGrid, with_faces: bool) -> None:
        assert self.sheet is not None
        make_folder(self.sheet.parent)
        for path in write_sheet(self.sheet, grid, console.log, 0o600 if with_faces else None):
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            self._tell(SheetResult(str(path), sha256))


def _scored(picture: PictureResult, score: Score) -> ScoreResult:
    """The second line of a picture."""
    return ScoreResult(
        row=picture.row,
        line=picture.line,
        output=picture.output,
        sha256=picture.sha256,
        seed=picture.seed,
        cosine=score.cosine,
        stranger=score.stranger,
        faces=score.faces,
        error=score.error,
    )


def references_of(asked: Asked) -> tuple[Path, ...]:
    """Whom a row's pictures are compared with. Of a folder, the picture that is called as the
    person's file is; nothing for nobody, and for several people, who would be taken for one. Raises
    InputError.
    """
    found: list[Path] = []
    for name in asked.flags.reference or ():
        path = Path(name).expanduser()
        if not path.is_dir():
            found.append(path)
            continue
        people = identity_files(asked.flags)
        if len(people) == 1:
            found.append(_portrait(path, Path(people[0]).stem, name))
    return tuple(found)


def _portrait(folder: Path, stem: str, name: str) -> Path:
    there = sorted(
        path for path in folder.iterdir() if path.stem == stem and path.suffix.lower() in PORTRAITS
    )
    if not there:
        raise RequestError(
            f"--reference {name}: holds no picture {stem}.png, .jpg or the like; add it, or name a picture"
        )
    return there[0]
