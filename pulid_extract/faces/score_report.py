"""Scores for people and programs: lines of a table, lines of JSON, a contact sheet, and what does
not pass. Knows no network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from pulid_extract.faces.recognizer import Recognizer
from pulid_extract.faces.scorer import TILE, KnownFace, ScoredPicture, small_picture
from pulid_extract.faces.scoring import Score, Tally
from pulid_extract.pictures.drawing import encode_png, sheet
from pulid_extract.shared.errors import printable

COLUMNS = f"{'cosine':>7}{'best':>8}{'stranger':>10}{'faces':>7}  picture"
# pictures; beyond it nobody looks, and memory ends
MAX_ON_A_SHEET = 500
TILES_PER_ROW = 6
# digits of a SHA-256 for people
SHORT_SHA256 = 12
# characters of a file's name on a tile
MAX_NAME = 24


def table_head(recognizer: Recognizer, references: int) -> list[str]:
    """The lines above the table."""
    whom = "the reference" if references == 1 else f"{references} references (mean, best)"
    sha256 = recognizer.sha256[:SHORT_SHA256]
    return [f"ArcFace cosine to {whom} by {recognizer.name} (sha256 {sha256})", COLUMNS]


def table_row(score: Score) -> str:
    """One picture, for people."""
    if score.mean is None or score.best is None:
        what = printable(score.error or score.picture)
        return f"{score.status:>7}{'':>8}{'':>10}{score.faces:>7}  {what}"
    stranger = "-" if score.stranger is None else f"{score.stranger:.3f}"
    numbers = f"{score.mean:>7.3f}{score.best:>8.3f}{stranger:>10}{score.faces:>7}"
    return f"{numbers}  {printable(score.picture)}"


def json_line(picture: ScoredPicture, recognizer: Recognizer) -> str:
    """One picture, for programs."""
    score = picture.score
    record = {
        "picture": score.picture,
        "status": score.status,
        "cosine": _rounded(score.mean),
        "best": _rounded(score.best),
        "cosines": [_rounded(cosine) for cosine in score.cosines],
        "stranger": _rounded(score.stranger),
        "faces": score.faces,
        "face": picture.index,
        "box": picture.box,
        "error": score.error,
        "recognizer": {"name": recognizer.name, "sha256": recognizer.sha256},
    }
    return json.dumps(record)


def shortcomings(tally: Tally, minimum: float | None, min_mean: float | None) -> list[str]:
    """What does not pass, a line each; minimum, min_mean: of --min and --min-mean."""
    lines = []
    if tally.failed:
        lines.append(f"{tally.failed} of {tally.count} pictures cannot be read")
    if tally.below:
        lines.append(
            f"{tally.below} of {tally.count} pictures below --min {minimum:g}, or without a face"
        )
    if min_mean is not None and tally.mean is None:
        lines.append(f"no face was scored, so there is no mean for --min-mean {min_mean:g}")
    elif min_mean is not None and tally.mean is not None and tally.mean < min_mean:
        lines.append(f"the mean is {tally.mean:.3f}, below --min-mean {min_mean:g}")
    return lines


def contact_sheet(
    references: Sequence[KnownFace], pictures: Sequence[ScoredPicture], recognizer: Recognizer
) -> bytes:
    """PNG: the references, then the pictures, the most alike first; those without a face last."""
    first: list[tuple[str, np.ndarray]] = []
    for reference in references:
        caption = f"reference\n{_short(reference.path)}"
        if not first:
            caption += f"\nby {recognizer.name} {recognizer.sha256[:SHORT_SHA256]}"
        first.append((caption, small_picture(reference.image, None)))
    return encode_png(sheet([*_in_rows(first), *_in_rows(tiles_of(pictures))], TILE))


def tiles_of(pictures: Sequence[ScoredPicture]) -> list[tuple[str, np.ndarray]]:
    """(caption, uint8 RGB picture): the most alike first, those without a face last; what cannot be
    read has no picture.
    """

    def likeness(picture: ScoredPicture) -> tuple[bool, float]:
        mean = picture.score.mean
        return mean is not None, mean or 0.0

    tiles = []
    for picture in sorted(pictures, key=likeness, reverse=True):
        if picture.tile is not None:
            tiles.append((_caption(picture.score), picture.tile))
    return tiles


def _in_rows(tiles: Sequence[tuple[str, np.ndarray]]) -> list[Sequence[tuple[str, np.ndarray]]]:
    starts = range(0, len(tiles), TILES_PER_ROW)
    return [tiles[start : start + TILES_PER_ROW] for start in starts]


def _caption(score: Score) -> str:
    if score.mean is None:
        return f"{score.status}\n{_short(score.picture)}"
    caption = f"{score.mean:.3f}"
    if score.stranger is not None:
        caption += f", stranger {score.stranger:.2f}"
    if score.faces > 1:
        caption += f", {score.faces} faces"
    return f"{caption}\n{_short(score.picture)}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _short(path: str) -> str:
    name = printable(path.rsplit("/", 1)[-1])
    return name if len(name) <= MAX_NAME else f"{name[:10]}..{name[-12:]}"
