"""Scores for people and programs: lines of a table, lines of JSON, a contact sheet, and what does
not pass. Knows no network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pulid_extract.faces.recognizer import Recognizer
from pulid_extract.faces.scorer import TILE, KnownFace, ScoredPicture, small_picture
from pulid_extract.faces.scoring import Comparison, Score, Tally
from pulid_extract.pictures.drawing import encode_png, sheet
from pulid_extract.shared.cli.console import counted
from pulid_extract.shared.errors import printable
from pulid_extract.shared.requirements import Clause

# pictures; beyond it nobody looks, and memory ends
MAX_ON_A_SHEET = 500
TILES_PER_ROW = 6
# characters of a column of the table
WIDTH = 13
# digits of a SHA-256 for people
SHORT_SHA256 = 12
# characters of a file's name on a tile
MAX_NAME = 24


@dataclass(frozen=True)
class Judges:
    """The networks whose numbers they are."""

    # the first one says which face is meant; empty without references
    recognizers: Sequence[Recognizer]
    # SHA-256 of the recogniser that PuLID is conditioned on
    own: str | None = None
    # of prompts
    prompt: PromptJudge | None = None

    def is_own(self, recognizer: Recognizer) -> bool:
        return recognizer.sha256 == self.own


@dataclass(frozen=True)
class PromptJudge:
    """A network that says whether a picture shows its prompt."""

    # of its file
    name: str
    sha256: str


@dataclass(frozen=True)
class Columns:
    """What the table shows beside likeness and faces."""

    judges: Judges
    stranger: bool = False
    truth: bool = False

    def head(self) -> str:
        """The names, each right-aligned in its column."""
        names = []
        if self.judges.recognizers:
            names += ["likeness", "best"]
        names += [f"by {number}" for number in range(2, len(self.judges.recognizers) + 1)]
        names += ["stranger"] if self.stranger else []
        names += ["truth", "copy_paste"] if self.truth else []
        names += ["prompt_score"] if self.judges.prompt is not None else []
        if self.judges.recognizers:
            names.append("faces")
        return "".join(f"{name:>{WIDTH}}" for name in names) + "  picture"

    def row(self, score: Score) -> str:
        """One picture."""
        first = score.first
        cells: list[str] = []
        if first is not None:
            cells += [f"{first.likeness:.3f}", f"{first.best:.3f}"]
            cells += [f"{one.likeness:.3f}" for one in score.comparisons[1:]]
            cells += [_cell(first.stranger, ".3f")] if self.stranger else []
            cells += [_cell(first.truth, ".3f"), _cell(first.copy_paste, "+.3f")] * self.truth
        elif self.judges.recognizers:
            empty = len(self.judges.recognizers) + self.stranger + 2 * self.truth
            cells += [score.status, *[""] * empty]
        cells += [_cell(score.prompt, ".2f")] if self.judges.prompt is not None else []
        if self.judges.recognizers:
            cells.append(str(score.faces))
        text = "".join(f"{cell:>{WIDTH}}" for cell in cells)
        return f"{text}  {printable(score.error or score.picture)}"


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def table_head(columns: Columns, references: int) -> list[str]:
    """The lines above the table."""
    judges, lines = columns.judges, []
    whom = "the reference" if references == 1 else f"{references} references (mean, best)"
    for number, recognizer in enumerate(judges.recognizers, 1):
        start = f"likeness: ArcFace cosine to {whom}" if number == 1 else f"by {number}: the same"
        mark = ", which PuLID is conditioned on" if judges.is_own(recognizer) else ""
        sha256 = recognizer.sha256[:SHORT_SHA256]
        lines.append(f"{start} by {recognizer.name} (sha256 {sha256}{mark})")
    if judges.prompt is not None:
        sha256 = judges.prompt.sha256[:SHORT_SHA256]
        lines.append(
            f"prompt_score: 100 times the cosine of picture and prompt by {judges.prompt.name} "
            f"(sha256 {sha256})"
        )
    return [*lines, columns.head()]


def json_line(picture: ScoredPicture, judges: Judges) -> str:
    """One picture, for programs. docs/validation.md has the fields."""
    score = picture.score
    first = score.first
    by_each: list[dict[str, Any]] = []
    for place, recognizer in enumerate(judges.recognizers):
        by_one = _compared(score.comparisons[place]) if score.comparisons else {}
        by_each.append(_named(recognizer, judges) | by_one)
    pose = score.pose
    record = {
        "picture": score.picture,
        "status": score.status,
        "likeness": _rounded(score.likeness),
        # what it was called before
        "cosine": _rounded(score.likeness),
        "best": _rounded(first.best if first else None),
        "cosines": [_rounded(cosine) for cosine in first.cosines] if first else [],
        "stranger": _rounded(first.stranger if first else None),
        "truth": _rounded(first.truth if first else None),
        "copy_paste": _rounded(first.copy_paste if first else None),
        "prompt_score": _rounded(score.prompt),
        "faces": score.faces,
        "face": picture.index,
        "box": picture.box,
        "pose": {name: round(degrees, 2) for name, degrees in vars(pose).items()} if pose else None,
        "error": score.error,
        "recognizer": _named(judges.recognizers[0], judges) if judges.recognizers else None,
        "recognizers": by_each,
        "prompt_judge": vars(judges.prompt) if judges.prompt else None,
    }
    return json.dumps(record)


def _named(recognizer: Recognizer, judges: Judges) -> dict[str, Any]:
    return {
        "name": recognizer.name,
        "sha256": recognizer.sha256,
        "own": judges.is_own(recognizer),
    }


def _compared(one: Comparison) -> dict[str, Any]:
    return {
        "likeness": _rounded(one.likeness),
        "stranger": _rounded(one.stranger),
        "truth": _rounded(one.truth),
        "copy_paste": _rounded(one.copy_paste),
    }


def agreements(tally: Tally, judges: Judges) -> list[str]:
    """How far further recognisers say the same as the first, a line each."""
    lines = []
    first = judges.recognizers[0].name if judges.recognizers else ""
    for place, recognizer in enumerate(judges.recognizers[1:], 1):
        if not tally.likenesses:
            break
        means = []
        for index in (0, place):
            means.append(sum(one[index] for one in tally.likenesses) / tally.scored)
        found = tally.agreement(place)
        correlation = "too few to correlate" if found is None else f"correlation {found:.2f}"
        lines.append(
            f"{recognizer.name} and {first}: {correlation} over {counted(tally.scored, 'face')}, "
            f"on average {means[1]:.3f} and {means[0]:.3f}"
        )
    return lines


def shortcomings(
    tally: Tally,
    minimum: float | None,
    min_mean: float | None,
    required: Sequence[Clause] = (),
) -> list[str]:
    """What does not pass, a line each. minimum, min_mean, required: of --min, --min-mean and
    --require.
    """
    lines = []
    if tally.failed:
        lines.append(f"{tally.failed} of {tally.count} pictures cannot be read")
    if tally.below:
        lines.append(
            f"{tally.below} of {tally.count} pictures below --min {minimum:g}, or without a face"
        )
    mean = tally.mean_likeness
    if min_mean is not None and mean is None:
        lines.append(f"no picture was compared, so there is no mean for --min-mean {min_mean:g}")
    elif min_mean is not None and mean is not None and mean < min_mean:
        lines.append(f"mean_likeness is {mean:.3f}, below --min-mean {min_mean:g}")
    values = tally.measures()
    for clause in required:
        if not clause.is_met(values[clause.name]):
            value = _cell(values[clause.name], ".3f")
            lines.append(f"{clause.name} is {value}, required {clause}")
    return lines


def contact_sheet(
    references: Sequence[KnownFace], pictures: Sequence[ScoredPicture], judges: Judges
) -> bytes:
    """PNG: the references, then the pictures, the most alike first; those without a face last."""
    recognizer = judges.recognizers[0] if judges.recognizers else None
    first: list[tuple[str, np.ndarray]] = []
    for reference in references:
        caption = f"reference\n{_short(reference.path)}"
        if not first and recognizer is not None:
            caption += f"\nby {recognizer.name} {recognizer.sha256[:SHORT_SHA256]}"
        first.append((caption, small_picture(reference.image, None)))
    return encode_png(sheet([*_in_rows(first), *_in_rows(tiles_of(pictures))], TILE))


def tiles_of(pictures: Sequence[ScoredPicture]) -> list[tuple[str, np.ndarray]]:
    """(caption, uint8 RGB picture): the most alike first, those without a face last; what cannot be
    read has no picture.
    """

    def likeness(picture: ScoredPicture) -> tuple[bool, float]:
        found = picture.score.likeness
        return found is not None, found or 0.0

    tiles = []
    for picture in sorted(pictures, key=likeness, reverse=True):
        if picture.tile is not None:
            tiles.append((_caption(picture.score), picture.tile))
    return tiles


def _in_rows(tiles: Sequence[tuple[str, np.ndarray]]) -> list[Sequence[tuple[str, np.ndarray]]]:
    starts = range(0, len(tiles), TILES_PER_ROW)
    return [tiles[start : start + TILES_PER_ROW] for start in starts]


def _caption(score: Score) -> str:
    first, lines = score.first, []
    if first is not None:
        facts = [f"likeness {first.likeness:.3f}"]
        if first.stranger is not None:
            facts.append(f"stranger {first.stranger:.2f}")
        if score.faces > 1:
            facts.append(f"{score.faces} faces")
        lines.append(", ".join(facts))
    elif score.status != "ok":
        lines.append(score.status)
    if score.prompt is not None:
        lines.append(f"prompt_score {score.prompt:.2f}")
    return "\n".join([*lines, _short(score.picture)])


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _short(path: str) -> str:
    name = printable(path.rsplit("/", 1)[-1])
    return name if len(name) <= MAX_NAME else f"{name[:10]}..{name[-12:]}"
