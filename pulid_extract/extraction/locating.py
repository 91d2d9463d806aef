"""Which face of a portrait is meant, and where it is: the choice among what the detectors see, or a
region by hand.

One face is chosen, and both networks see it, or it fails; see extractor.py. Knows no network: what
they see is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pulid_extract.extraction.identity import Aligner
from pulid_extract.faces.antelopev2 import Face, overlap
from pulid_extract.faces.choice import FaceChoice, pick
from pulid_extract.faces.crop import Landmarks
from pulid_extract.pictures import regions
from pulid_extract.pictures.portrait import Photo
from pulid_extract.shared.cli.console import counted
from pulid_extract.shared.errors import FaceError, InputError

# IoU below which the two detectors' boxes are taken for two faces
MIN_OVERLAP = 0.3


@dataclass(frozen=True)
class LocatedFace:
    """The one face, in pixels of the limited picture."""

    # (x1, y1, x2, y2)
    box: tuple[float, float, float, float]
    # (5, 2) that align the crop, None for a box by hand
    points: np.ndarray | None
    # insightface's, if it saw it
    face: Face | None
    # the detector's, None by hand
    score: float | None = None
    # how many faces that detector saw, 0 by hand
    faces_found: int = 0


def locate_by_hand(photo: Photo, choice: FaceChoice) -> LocatedFace:
    """The landmarks or the box of a choice that needs no detector. Raises InputError for what lies
    outside the portrait.
    """
    if choice.landmarks is not None:
        return _by_landmarks(photo, choice.landmarks)
    assert choice.box is not None  # `detects` says so
    (sx, sy), box = photo.scale, choice.box
    regions.check_box("--face-box", box, photo.size)
    right, bottom = box.x + box.width, box.y + box.height
    return LocatedFace((box.x / sx, box.y / sy, right / sx, bottom / sy), None, None)


def _by_landmarks(photo: Photo, landmarks: tuple[tuple[float, float], ...]) -> LocatedFace:
    points = np.asarray(np.array(landmarks) / photo.scale, np.float32)
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    half = np.ptp(points, axis=0).max()
    height, width = photo.bgr.shape[:2]
    if not (0 <= middle[0] <= width and 0 <= middle[1] <= height):
        size = f"{photo.size[0]}x{photo.size[1]}"
        raise InputError(f"--landmarks: lie outside the portrait, which is {size} pixels")
    # about a detector's box
    left, top = (float(value) for value in middle - half)
    right, bottom = (float(value) for value in middle + half)
    box = (left, top, right, bottom)
    return LocatedFace(box, points, Face(box, points, 1.0))


class FaceLocator:
    """Chooses among the faces that insightface finds, aligned by RetinaFace's landmarks of that
    same face, or by insightface's own.
    """

    def __init__(
        self,
        detect: Callable[[Photo], list[Face]],
        find_landmarks: Callable[[Photo], list[Landmarks]],
        aligner: Aligner,
        log: Callable[[str], None],
    ):
        """detect, find_landmarks: what insightface and RetinaFace see in the limited picture."""
        self.detect, self.find_landmarks = detect, find_landmarks
        self.aligner, self.log = aligner, log

    def locate(self, photo: Photo, choice: FaceChoice) -> LocatedFace:
        """The chosen face. Raises FaceError if there is none, or if the detectors disagree."""
        faces = self.detect(photo)
        if self.aligner == "antelopev2":
            return self._by_insightface(photo, choice, faces)
        marks = self.find_landmarks(photo)
        if not marks:
            raise FaceError(_no_landmarks(len(faces)))
        if not faces:
            # As the reference: ArcFace then sees the aligned crop, squashed to its size.
            mark = marks[_place(photo, marks, choice)]
            self.log(f"insightface finds no face, RetinaFace {len(marks)}: taking {choice.words()}")
            return LocatedFace(mark.box, mark.points, None, mark.score, len(marks))
        face = faces[_place(photo, faces, choice)]
        mark = max(marks, key=lambda mark: overlap(face.box, mark.box))
        shared = overlap(face.box, mark.box)
        if shared < MIN_OVERLAP:
            box = photo.in_portrait(face.box)
            raise FaceError(
                f"the detectors disagree: {choice.words('insightface')} is at "
                f"{box.x},{box.y},{box.width},{box.height} (X,Y,W,H), RetinaFace's nearest "
                f"overlaps it by {shared:.2f}, at least {MIN_OVERLAP} is needed; crop the "
                "portrait, or give the region with --face-box"
            )
        self._say_taken(faces, choice, face.score)
        return LocatedFace(face.box, mark.points, face, face.score, len(faces))

    def _by_insightface(
        self, photo: Photo, choice: FaceChoice, faces: Sequence[Face]
    ) -> LocatedFace:
        if not faces:
            raise FaceError(
                "no face found by antelopev2; give a clearer portrait, or the region with "
                "--face-box"
            )
        face = faces[_place(photo, faces, choice)]
        self._say_taken(faces, choice, face.score)
        return LocatedFace(face.box, face.landmarks, face, face.score, len(faces))

    def _say_taken(self, faces: Sequence[Face], choice: FaceChoice, score: float) -> None:
        count = counted(len(faces), "face")
        self.log(f"{count} found, taking {choice.words()} (score {score:.2f})")


def _place(photo: Photo, faces: Sequence[Face | Landmarks], choice: FaceChoice) -> int:
    boxes = [face.mapped(photo.scale).box for face in faces]
    return pick(boxes, choice, photo.size)


def _no_landmarks(faces: int) -> str:
    if not faces:
        return (
            "no face found: RetinaFace sees none, neither does insightface; give a clearer "
            "portrait, or the region with --face-box"
        )
    return (
        f"no face found: RetinaFace sees none, insightface finds {faces}; give a clearer portrait, "
        "the region with --face-box, or --aligner antelopev2"
    )
