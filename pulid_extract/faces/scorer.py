"""Scores pictures: finds faces with one detector, gives their vectors by one recogniser, and
compares them with references and strangers.

Detector and recogniser are handed in. Knows nothing of model files or command lines beyond the flag
names it puts into messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pulid_extract.faces.antelopev2 import Face, sorted_faces
from pulid_extract.faces.choice import Order
from pulid_extract.faces.recognizer import Recognizer
from pulid_extract.faces.scoring import Score, cosines_to, most_alike
from pulid_extract.pictures.drawing import Mark, draw_faces
from pulid_extract.pictures.portrait import (
    Photo,
    decode_portrait,
    limit_long_side,
    read_portrait_bytes,
)
from pulid_extract.shared.background import ahead
from pulid_extract.shared.cli import console
from pulid_extract.shared.errors import FaceError, InputError, WeightsError

# pixels of a tile on a contact sheet
TILE = 224
# cosine of a stranger to the reference from which he may be the same person; as fusion.STRANGER
SAME_PERSON = 0.25


@dataclass(frozen=True)
class KnownFace:
    """The largest face of a reference or of a stranger."""

    # as it was given
    path: str
    # uint8 RGB (H, W, 3), the whole picture
    image: np.ndarray
    # (D,) float32
    vector: np.ndarray


@dataclass(frozen=True)
class ScoredPicture:
    """One picture's score, and what a contact sheet shows of it."""

    score: Score
    # of the face that was taken: X, Y, W, H in pixels, and its place in the order of counting
    box: tuple[int, int, int, int] | None = None
    index: int | None = None
    # uint8 RGB (H, W, 3), small; None without a sheet, and for what cannot be read
    tile: np.ndarray | None = None


@dataclass(frozen=True)
class FaceScorer:
    """Compares the faces of pictures with those of references."""

    # every face of a uint8 RGB (H, W, 3) picture
    detect: Callable[[np.ndarray], list[Face]]
    recognizer: Recognizer
    # how faces are counted; None: largest first
    order: Order | None = None
    # which face of each picture is scored; None: the most alike, unless `order` says the first
    index: int | None = None
    # whether tiles for a contact sheet are made
    with_tiles: bool = False

    def known_face(self, path: str, what: str) -> KnownFace:
        """The largest face of a picture. what: "reference" or "stranger", for messages. Raises
        InputError, FaceError.
        """
        data, where = _read(path)
        image = decode_portrait(data, where)
        faces = sorted_faces(self.detect(image), "largest", image)
        if not faces:
            raise FaceError(f"{where}: no face found in this {what}; give another picture")
        if len(faces) > 1:
            console.log(f"{where}: {len(faces)} faces, the largest is the {what}")
        return KnownFace(path, image, self._vector(image, faces[0]))

    def scores(
        self,
        paths: Sequence[str],
        references: Sequence[np.ndarray],
        strangers: Sequence[np.ndarray],
    ) -> Iterator[ScoredPicture]:
        """Each picture in its turn; the next one is read and decoded meanwhile. references,
        strangers: vectors (D,). Raises WeightsError.
        """
        for path, image in ahead(_decoded, paths, 1):
            if isinstance(image, InputError):
                yield ScoredPicture(Score(path, "failed", error=str(image)))
                continue
            try:
                yield self._score(path, image, references, strangers)
            except WeightsError:
                raise  # it would be the same for every picture
            except InputError as error:
                yield ScoredPicture(Score(path, "failed", error=f"{path}: {error}"))

    def _score(
        self,
        path: str,
        image: np.ndarray,
        references: Sequence[np.ndarray],
        strangers: Sequence[np.ndarray],
    ) -> ScoredPicture:
        faces = sorted_faces(self.detect(image), self.order or "largest", image)
        is_by_hand = self.index is not None or self.order is not None
        index = self.index or 0
        if not faces or (is_by_hand and index >= len(faces)):
            why = f"{path}: no face found"
            if faces:
                why = f"{path}: has {len(faces)} faces, none is number {index}"
            score = Score(path, "no face", faces=len(faces), error=why)
            return ScoredPicture(score, tile=self._tile(image, None))
        if is_by_hand:
            vector = self._vector(image, faces[index])
        else:
            vectors = [self._vector(image, face) for face in faces]
            index = most_alike(vectors, references)
            vector = vectors[index]
        stranger = None
        if strangers:
            stranger = max(cosines_to(vector, strangers))
        cosines = cosines_to(vector, references)
        score = Score(path, "ok", cosines, stranger, faces=len(faces))
        left, top, right, bottom = (round(value) for value in faces[index].box)
        box = (left, top, right - left, bottom - top)
        return ScoredPicture(score, box, index, self._tile(image, faces[index]))

    def _vector(self, image: np.ndarray, face: Face) -> np.ndarray:
        """(D,) float32, of the picture as an extraction sees it, its long side limited."""
        photo = Photo.of(image)
        return self.recognizer.embed(photo.bgr, face.landmarks / photo.scale)

    def _tile(self, image: np.ndarray, face: Face | None) -> np.ndarray | None:
        return small_picture(image, face) if self.with_tiles else None


def small_picture(image: np.ndarray, face: Face | None) -> np.ndarray:
    """The picture, small, with the face that was taken; uint8 RGB (H, W, 3)."""
    small = limit_long_side(image, 2 * TILE)
    if face is None:
        return small
    scale = (small.shape[1] / image.shape[1], small.shape[0] / image.shape[0])
    return draw_faces(small, [Mark(face.mapped(scale).box, chosen=True)])


def warn_of_strangers(references: Sequence[KnownFace], strangers: Sequence[KnownFace]) -> None:
    """A control must be somebody else: say so of a stranger who is like the reference."""
    vectors = [reference.vector for reference in references]
    for stranger in strangers:
        highest = max(cosines_to(stranger.vector, vectors))
        if highest >= SAME_PERSON:
            console.log(
                f"warning: the stranger is like the reference (cosine {highest:.2f}): "
                "a control wants somebody else"
            )


def _decoded(path: str) -> tuple[str, np.ndarray | InputError]:
    try:
        return path, decode_portrait(*_read(path))
    except InputError as error:
        return path, error


def _read(path: str) -> tuple[bytes, str]:
    """(bytes, name for messages). Raises InputError."""
    data, where = read_portrait_bytes(path)
    if data[:4] == b"GGUF":
        raise InputError(
            f"{where}: is a .pulidembd, which holds identity tokens and no face vector; "
            "give the picture it was made from"
        )
    return data, where
