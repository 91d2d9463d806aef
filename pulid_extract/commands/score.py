"""`pulid-extract score --reference PICTURE IMAGES..`: how like a person the faces of pictures are.
Reads antelopev2 and no other network.

Results leave as they are found, so that a list may be as long as one likes. Imports torch only once
there is work.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from pulid_extract.extraction.ahead import ahead
from pulid_extract.extraction.opening import PACKAGES, check_outputs, open_extractor, quiet
from pulid_extract.extraction.result_lines import ResultLines
from pulid_extract.extraction.sources import expand
from pulid_extract.shared.cli import console
from pulid_extract.shared.errors import (
    FaceError,
    InputError,
    PulidError,
    WeightsError,
    require_packages,
)
from pulid_extract.shared.writing import check_not_input, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from pulid_extract.extraction.extractor import Extractor
    from pulid_extract.faces.antelopev2 import Face
    from pulid_extract.faces.recognizer import Recognizer
    from pulid_extract.faces.scoring import Score
from pulid_extract.flags.score import ScoreFlags

COLUMNS = f"{'cosine':>7}{'best':>8}{'stranger':>10}{'faces':>7}  picture"
ON_A_SHEET = 500  # pictures; beyond it nobody looks, and memory ends
TILE, PER_ROW = 224, 6  # pixels, tiles
# cosine of a stranger to the reference from which he may be none; as fusion.STRANGER
SAME_PERSON = 0.25
SHORT = 12  # digits of a SHA-256 for people


@dataclass(frozen=True)
class Looked:
    """One picture's score, and what the sheet shows of it. box: of the face, X,Y,W,H; index: its
    place, largest first.
    """

    score: Score
    box: tuple[int, ...] | None = None
    index: int | None = None
    tile: np.ndarray | None = None


class FaceJudge:
    """Finds faces and gives their vectors, by one detector and one recogniser."""

    def __init__(self, extractor: Extractor, recognizer: Recognizer, flags: ScoreFlags):
        self.extractor, self.recognizer, self.flags = extractor, recognizer, flags

    def faces(self, image: np.ndarray) -> list[Face]:
        """As --face-order counts them. Raises WeightsError."""
        from pulid_extract.faces.choice import in_order

        found = self.extractor.detect(image)
        size = (image.shape[1], image.shape[0])
        return [
            found[place]
            for place in in_order(
                [face.box for face in found], self.flags.face_order or "largest", size
            )
        ]

    def vector(self, image: np.ndarray, face: Face) -> np.ndarray:
        """Of the picture as the extraction sees it, its long side limited."""
        from pulid_extract.pictures.portrait import Photo

        photo = Photo.of(image)
        return self.recognizer.embed(photo.bgr, face.landmarks / photo.scale)

    def known(self, path: str, what: str) -> tuple[np.ndarray, np.ndarray]:
        """(picture, vector of its largest face) of a reference or a stranger. Raises InputError,
        FaceError.
        """
        from pulid_extract.faces.choice import in_order
        from pulid_extract.pictures.portrait import decode_portrait

        data, where = _read(path)
        image = decode_portrait(data, where)
        found = self.extractor.detect(image)
        if not found:
            raise FaceError(f"{where}: no face found in this {what}; give another picture")
        if len(found) > 1:
            console.log(f"{where}: {len(found)} faces, the largest is the {what}")
        largest = in_order(
            [face.box for face in found], "largest", (image.shape[1], image.shape[0])
        )[0]
        return image, self.vector(image, found[largest])


def run(context: typer.Context, flags: ScoreFlags) -> None:
    """Score every picture. Raises PulidError at once for a reference without a face, at the end for
    pictures that do not pass.
    """
    from pulid_extract.faces.scoring import Tally

    require_packages(PACKAGES, "extract")
    if flags.images.count("-") + flags.reference.count("-") + (flags.stranger or []).count("-") > 1:
        context.fail("standard input holds one picture; - stands for it once.")
    paths = expand(flags.images, console.log)
    if flags.sheet is not None:
        if len(paths) > ON_A_SHEET:
            raise InputError(
                f"--sheet: {len(paths)} pictures, a sheet holds {ON_A_SHEET}; give fewer, or leave --sheet out"
            )
        given = [
            *paths,
            *flags.reference,
            *(flags.stranger or []),
            *([flags.recognizer] if flags.recognizer else []),
        ]
        check_outputs({"--sheet": flags.sheet}, [path for path in given if path != "-"])
    tally, shown = Tally(limit=flags.minimum), list[Looked]()
    with ResultLines() as lines, quiet():
        judge = _judge(flags)
        if flags.sheet is not None:
            check_not_input(flags.sheet, [found.path for found in judge.extractor.found.values()])
        references = [judge.known(path, "reference") for path in flags.reference]
        strangers = [judge.known(path, "stranger") for path in flags.stranger or []]
        _check_strangers(references, strangers)
        for line in [] if flags.as_json else _head(judge.recognizer, len(references)):
            lines.write(line)
        for looked in _look(
            judge, paths, [vector for _, vector in references], [vector for _, vector in strangers]
        ):
            tally.add(looked.score)
            lines.write(_json(looked, judge.recognizer) if flags.as_json else _row(looked))
            shown += [looked] if flags.sheet is not None else []
        console.log(tally.line())
        if flags.sheet is not None:
            write_atomically(
                flags.sheet,
                _sheet(
                    flags.reference, [image for image, _ in references], shown, judge.recognizer
                ),
                mode=0o600,
            )
    if tally.fooled:
        console.log(
            f"warning: the stranger is as like as the reference in {tally.fooled} of {tally.scored} pictures: "
            f"these cosines do not show that person"
        )
    problems = [f"{tally.failed} of {tally.count} pictures cannot be read"] if tally.failed else []
    if tally.below:
        problems.append(
            f"{tally.below} of {tally.count} pictures below --min {flags.minimum:g}, or without a face"
        )
    if flags.min_mean is not None and (tally.mean is None or tally.mean < flags.min_mean):
        problems.append(
            f"the mean is {'not there' if tally.mean is None else f'{tally.mean:.3f}'}, below --min-mean {flags.min_mean:g}"
        )
    if problems:
        raise InputError("; ".join(problems))


def _judge(flags: ScoreFlags) -> FaceJudge:
    from pathlib import Path

    from pulid_extract.faces.recognizer import Recognizer

    extractor = open_extractor(flags, roles=("antelopev2",))
    if flags.recognizer is not None:
        return FaceJudge(extractor, Recognizer(Path(flags.recognizer).expanduser()), flags)
    recognizer = Recognizer.of_pack(_folder(extractor))
    console.log(
        f"{recognizer.name} is the network that PuLID is conditioned on; --recognizer takes an independent one"
    )
    return FaceJudge(extractor, recognizer, flags)


def _folder(extractor: Extractor) -> Path:
    return extractor.found["antelopev2"].path


def _read(path: str) -> tuple[bytes, str]:
    from pulid_extract.pictures.portrait import read_portrait_bytes

    data, where = read_portrait_bytes(path)
    if data[:4] == b"GGUF":
        raise InputError(
            f"{where}: is a .pulidembd, which holds identity tokens and no face vector; give the picture it was made from"
        )
    return data, where


def _check_strangers(
    references: Sequence[tuple[Any, np.ndarray]], strangers: Sequence[tuple[Any, np.ndarray]]
) -> None:
    from pulid_extract.faces.scoring import cosines_to

    for _, vector in strangers:
        highest = max(cosines_to(vector, [reference for _, reference in references]))
        if highest >= SAME_PERSON:
            console.log(
                f"warning: the stranger is like the reference (cosine {highest:.2f}): a control wants somebody else"
            )


def _look(
    judge: FaceJudge,
    paths: Sequence[str],
    references: Sequence[np.ndarray],
    strangers: Sequence[np.ndarray],
) -> Iterator[Looked]:
    """Each picture in its turn; the next one is read and decoded meanwhile. Raises WeightsError."""
    from pulid_extract.faces.scoring import Score
    from pulid_extract.pictures.portrait import decode_portrait

    def read(path: str) -> tuple[str, np.ndarray | PulidError]:
        try:
            return path, decode_portrait(*_read(path))
        except InputError as error:
            return path, error

    for path, image in ahead(read, paths, 1):
        if isinstance(image, PulidError):
            yield Looked(Score(path, "failed", error=str(image)))
            continue
        try:
            yield _score(judge, path, image, references, strangers)
        except WeightsError:
            raise  # it would be the same for every picture
        except InputError as error:
            yield Looked(Score(path, "failed", error=f"{path}: {error}"))


def _score(
    judge: FaceJudge,
    path: str,
    image: np.ndarray,
    references: Sequence[np.ndarray],
    strangers: Sequence[np.ndarray],
) -> Looked:
    from pulid_extract.faces.scoring import Score, cosines_to, most_alike

    found, flags = judge.faces(image), judge.flags
    tile = _tile(image, None) if flags.sheet is not None else None
    by_hand = flags.face_index is not None or flags.face_order is not None
    index = flags.face_index or 0
    if not found or (by_hand and index >= len(found)):
        why = (
            f"{path}: no face found"
            if not found
            else f"{path}: has {len(found)} faces, none is number {index}"
        )
        return Looked(Score(path, "no face", faces=len(found), error=why), tile=tile)
    vectors = [
        judge.vector(image, face) for face in (found[index : index + 1] if by_hand else found)
    ]
    place = 0 if by_hand else most_alike(vectors, references)
    index = index if by_hand else place
    face, vector = found[index], vectors[place]
    score = Score(
        path,
        "ok",
        cosines_to(vector, references),
        max(cosines_to(vector, strangers)) if strangers else None,
        faces=len(found),
    )
    left, top, right, bottom = (round(value) for value in face.box)
    tile = _tile(image, face) if flags.sheet is not None else None
    return Looked(score, (left, top, right - left, bottom - top), index, tile)


# ------------------------------------------------------------------------------------------ showing


def _head(recognizer: Recognizer, references: int) -> list[str]:
    whose = "the reference" if references == 1 else f"{references} references (mean, best)"
    return [
        f"ArcFace cosine to {whose} by {recognizer.name} (sha256 {recognizer.sha256[:SHORT]})",
        COLUMNS,
    ]


def _row(looked: Looked) -> str:
    score = looked.score
    if score.status != "ok":
        return f"{score.status:>7}{'':>8}{'':>10}{score.faces:>7}  {_printable(score.error or score.picture)}"
    stranger = "-" if score.stranger is None else f"{score.stranger:.3f}"
    return f"{score.mean:>7.3f}{score.best:>8.3f}{stranger:>10}{score.faces:>7}  {_printable(score.picture)}"


def _printable(text: str) -> str:
    """File names may hold anything: no escape codes into a terminal, one line for each picture."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _json(looked: Looked, recognizer: Recognizer) -> str:
    score = looked.score
    return json.dumps(
        {
            "picture": score.picture,
            "status": score.status,
            "cosine": _rounded(score.mean),
            "best": _rounded(score.best),
            "cosines": [_rounded(cosine) for cosine in score.cosines],
            "stranger": _rounded(score.stranger),
            "faces": score.faces,
            "face": looked.index,
            "box": looked.box,
            "error": score.error,
            "recognizer": {"name": recognizer.name, "sha256": recognizer.sha256},
        }
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _tile(image: np.ndarray, face: Face | None) -> np.ndarray:
    """The picture, small, with the face that was taken."""
    from pulid_extract.pictures.drawing import Mark, draw_faces
    from pulid_extract.pictures.portrait import limit_long_side

    small = limit_long_side(image, 2 * TILE)
    if face is None:
        return small
    scale = (small.shape[1] / image.shape[1], small.shape[0] / image.shape[0])
    return draw_faces(small, [Mark(face.mapped(scale).box, chosen=True)])


def _sheet(
    names: Sequence[str],
    references: Sequence[np.ndarray],
    shown: Sequence[Looked],
    recognizer: Recognizer,
) -> bytes:
    """PNG: the references, then the pictures, the most alike first; those without a face last."""
    from pulid_extract.pictures.drawing import encode_png, sheet

    first = [
        (f"reference\n{_short(name)}", _tile(image, None))
        for name, image in zip(names, references, strict=True)
    ]
    first[0] = (f"{first[0][0]}\nby {recognizer.name} {recognizer.sha256[:SHORT]}", first[0][1])
    return encode_png(sheet([*_rows(first), *_rows(tiles_of(shown))], TILE))


def tiles_of(shown: Sequence[Looked]) -> list[tuple[str, np.ndarray]]:
    """(caption, picture): the most alike first, those without a face last; what cannot be read has
    no picture.
    """
    ordered = sorted(
        shown,
        key=lambda looked: (looked.score.mean is not None, looked.score.mean or 0.0),
        reverse=True,
    )
    return [(_caption(looked.score), looked.tile) for looked in ordered if looked.tile is not None]


def _rows(tiles: Sequence[tuple[str, np.ndarray]]) -> list[Sequence[tuple[str, np.ndarray]]]:
    return [tiles[start : start + PER_ROW] for start in range(0, len(tiles), PER_ROW)]


def _caption(score: Score) -> str:
    if score.mean is None:
        return f"{score.status}\n{_short(score.picture)}"
    stranger = "" if score.stranger is None else f", stranger {score.stranger:.2f}"
    several = f", {score.faces} faces" if score.faces > 1 else ""
    return f"{score.mean:.3f}{stranger}{several}\n{_short(score.picture)}"


def _short(path: str) -> str:
    name = _printable(path.rsplit("/", 1)[-1])
    return name if len(name) <= 24 else f"{name[:10]}..{name[-12:]}"
