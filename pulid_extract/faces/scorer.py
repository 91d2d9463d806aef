"""Scores pictures: finds faces with one detector, gives their vectors by one recogniser or several,
and compares them with references, other photographs of the person, and strangers; asks a judge
whether a picture shows its prompt.

Detector, recognisers and judge are handed in. Knows nothing of model files or command lines beyond
the flag names it puts into messages.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pulid_extract.faces.antelopev2 import VECTOR_WIDTH, Face, sorted_faces
from pulid_extract.faces.choice import Order
from pulid_extract.faces.head_pose import head_pose
from pulid_extract.faces.recognizer import Recognizer
from pulid_extract.faces.scoring import (
    SAME_PHOTOGRAPH,
    Comparison,
    Score,
    angle,
    copy_paste,
    cosines_to,
    mean_angle,
    most_alike,
)
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
    """The largest face of a reference, of another photograph of the person, or of a stranger."""

    # as it was given
    path: str
    # uint8 RGB (H, W, 3), the whole picture
    image: np.ndarray
    # (D,) float32, by each recogniser
    vectors: tuple[np.ndarray, ...]


def faces_of_vectors(value: object) -> list[KnownFace]:
    """References without pictures: lists of numbers, as JSON has them. Raises InputError."""
    try:
        vectors = np.asarray(value, np.float32)
    # lists of other lengths, words
    except (ValueError, TypeError, OverflowError):
        vectors = np.zeros(0, np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != VECTOR_WIDTH or not np.isfinite(vectors).all():
        raise InputError(
            f"vectors: expected lists of {VECTOR_WIDTH} numbers, as extract gives them"
        )
    return [KnownFace("", np.zeros(0, np.uint8), (vector,)) for vector in vectors]


@dataclass(frozen=True)
class KnownFaces:
    """Who pictures are compared with."""

    references: Sequence[KnownFace] = ()
    strangers: Sequence[KnownFace] = ()
    # other photographs of the person
    truths: Sequence[KnownFace] = ()

    def between(self, index: int) -> float:
        """The mean angle of the other photographs to the references, radians, by one
        recogniser.
        """
        angles = []
        for truth in self.truths:
            cosines = cosines_to(truth.vectors[index], _vectors(self.references, index))
            angles.append(mean_angle(cosines))
        return sum(angles) / len(angles)

    def compare(self, vector: np.ndarray, index: int) -> Comparison:
        """A face with all of them, by one recogniser. vector: (D,)."""
        cosines = cosines_to(vector, _vectors(self.references, index))
        stranger = max(cosines_to(vector, _vectors(self.strangers, index)), default=None)
        truths = cosines_to(vector, _vectors(self.truths, index))
        copied = copy_paste(truths, cosines, self.between(index)) if truths else None
        return Comparison(cosines, stranger, truths, copied)

    def check(self) -> None:
        """Say so of a stranger who is like the reference, and of another photograph that is not.
        Raises InputError for one that is the reference itself.
        """
        for stranger in self.strangers:
            highest = max(cosines_to(stranger.vectors[0], _vectors(self.references, 0)))
            if highest >= SAME_PERSON:
                console.log(
                    f"warning: the stranger is like the reference (cosine {highest:.2f}): "
                    "a control wants somebody else"
                )
        for truth, reference in itertools.product(self.truths, self.references):
            self._check_truth(truth, reference)

    def _check_truth(self, truth: KnownFace, reference: KnownFace) -> None:
        cosines: list[float] = []
        for ours, theirs in zip(truth.vectors, reference.vectors, strict=True):
            cosines += cosines_to(ours, [theirs])
        degrees = math.degrees(angle(max(cosines)))
        if degrees < SAME_PHOTOGRAPH:
            raise InputError(
                f"--truth {truth.path}: is the photograph {reference.path} itself "
                f"({degrees:.1f} degrees apart); give another one of the person"
            )
        if cosines[0] < SAME_PERSON:
            console.log(
                f"warning: --truth {truth.path} is not like the reference (cosine "
                f"{cosines[0]:.2f}); is it somebody else?"
            )


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
    """Compares the faces of pictures with those of references, and pictures with prompts."""

    # every face of a uint8 RGB (H, W, 3) picture
    detect: Callable[[np.ndarray], list[Face]]
    # the first one says which face is meant; none: faces are not looked for
    recognizers: Sequence[Recognizer]
    # how faces are counted; None: largest first
    order: Order | None = None
    # which face of each picture is scored; None: the most alike, unless `order` says the first
    index: int | None = None
    # whether tiles for a contact sheet are made
    with_tiles: bool = False
    # how well a picture shows a prompt, in points
    judge: Callable[[np.ndarray, str], float] | None = None
    # who pictures are compared with
    known: KnownFaces = field(default_factory=KnownFaces)

    def known_face(self, path: str, what: str) -> KnownFace:
        """The largest face of a picture. what: "reference", "truth" or "stranger", for messages.
        Raises InputError, FaceError.
        """
        data, where = _read(path)
        image = decode_portrait(data, where)
        faces = sorted_faces(self.detect(image), "largest", image)
        if not faces:
            raise FaceError(f"{where}: no face found in this {what}; give another picture")
        if len(faces) > 1:
            console.log(f"{where}: {len(faces)} faces, the largest is the {what}")
        vectors = tuple(_vector(image, faces[0], one) for one in self.recognizers)
        return KnownFace(path, image, vectors)

    def cosines(
        self, image: np.ndarray, face: Face, references: Sequence[np.ndarray]
    ) -> tuple[float, ...]:
        """Of one face of a picture to each reference's vector (D,), by the first recogniser. image:
        uint8 RGB (H, W, 3).
        Raises FaceError, WeightsError.
        """
        return cosines_to(_vector(image, face, self.recognizers[0]), references)

    def scores(
        self, paths: Sequence[str], prompts: Sequence[str | None] | None = None
    ) -> Iterator[ScoredPicture]:
        """Each picture in its turn; the next one is read and decoded meanwhile. prompts: of each
        picture. Raises WeightsError.
        """
        prompts = prompts or [None] * len(paths)
        decoded = ahead(_decoded, paths, 1)
        for (path, image), prompt in zip(decoded, prompts, strict=True):
            if isinstance(image, InputError):
                yield ScoredPicture(Score(path, "failed", error=str(image)))
                continue
            try:
                found = self._score(path, image)
            except WeightsError:
                raise  # it would be the same for every picture
            except InputError as error:
                yield ScoredPicture(Score(path, "failed", error=f"{path}: {error}"))
                continue
            if prompt is not None and self.judge is not None:
                points = self.judge(image, prompt)
                found = replace(found, score=replace(found.score, prompt=points))
            yield found

    def _score(self, path: str, image: np.ndarray) -> ScoredPicture:
        if not self.recognizers:
            return ScoredPicture(Score(path, "ok"), tile=self._tile(image, None))
        faces = sorted_faces(self.detect(image), self.order or "largest", image)
        is_by_hand = self.index is not None or self.order is not None
        index = self.index or 0
        if not faces or (is_by_hand and index >= len(faces)):
            why = f"{path}: no face found"
            if faces:
                why = f"{path}: has {len(faces)} faces, none is number {index}"
            score = Score(path, "no face", faces=len(faces), error=why)
            return ScoredPicture(score, tile=self._tile(image, None))
        first = self.recognizers[0]
        if is_by_hand:
            vector = _vector(image, faces[index], first)
        else:
            vectors = [_vector(image, face, first) for face in faces]
            index = most_alike(vectors, _vectors(self.known.references, 0))
            vector = vectors[index]
        face = faces[index]
        comparisons = [self.known.compare(vector, 0)]
        for place, recognizer in enumerate(self.recognizers[1:], 1):
            comparisons.append(self.known.compare(_vector(image, face, recognizer), place))
        score = Score(path, "ok", tuple(comparisons), head_pose(face.landmarks), len(faces))
        left, top, right, bottom = (round(value) for value in face.box)
        box = (left, top, right - left, bottom - top)
        return ScoredPicture(score, box, index, self._tile(image, face))

    def _tile(self, image: np.ndarray, face: Face | None) -> np.ndarray | None:
        return small_picture(image, face) if self.with_tiles else None


def small_picture(image: np.ndarray, face: Face | None) -> np.ndarray:
    """The picture, small, with the face that was taken; uint8 RGB (H, W, 3)."""
    small = limit_long_side(image, 2 * TILE)
    if face is None:
        return small
    scale = (small.shape[1] / image.shape[1], small.shape[0] / image.shape[0])
    return draw_faces(small, [Mark(face.mapped(scale).box, chosen=True)])


def _vector(image: np.ndarray, face: Face, recognizer: Recognizer) -> np.ndarray:
    """(D,) float32, of the picture as an extraction sees it, its long side limited."""
    photo = Photo.of(image)
    return recognizer.embed(photo.bgr, face.landmarks / photo.scale)


def _vectors(faces: Sequence[KnownFace], index: int) -> list[np.ndarray]:
    """By one recogniser."""
    return [face.vectors[index] for face in faces]


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
