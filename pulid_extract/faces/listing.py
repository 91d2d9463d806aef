"""Every face of a photograph in numbers: as records, as a table for people, drawn on the
photograph.

Faces come as a detector found them. Knows nothing of files or command lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pulid_extract.faces import crop as face_crop
from pulid_extract.faces import quality
from pulid_extract.faces.antelopev2 import Face, sorted_faces
from pulid_extract.faces.choice import Order
from pulid_extract.faces.head_pose import Pose, head_pose
from pulid_extract.pictures.drawing import Mark, draw_faces
from pulid_extract.pictures.portrait import Photo
from pulid_extract.pictures.regions import FaceBox
from pulid_extract.shared.errors import FaceError

COLUMNS = (
    "face",
    "also",
    "x,y,w,h",
    "size",
    "score",
    "yaw",
    "pitch",
    "roll",
    "sharpness",
    "landmarks",
)

# order that is asked for -> the one whose numbers are shown beside; every other: largest
OTHER_ORDERS: dict[Order, Order] = {"largest": "left"}


@dataclass(frozen=True)
class ListedFace:
    """One face in pixels of the photograph, numbers rounded to what is printed."""

    # what --face-index takes
    index: int
    # as which face another --face-order counts it, so that no picture is read in the wrong order
    other_order: Order
    other_index: int
    box: FaceBox
    # eyes, nose tip, mouth corners
    landmarks: tuple[tuple[float, float], ...]
    # the detector's
    score: float
    # the shorter side of the detector's box
    size: float
    # degrees; None where the landmarks show none
    pose: Pose | None
    # see `quality.sharpness`
    sharpness: float

    def to_json(self) -> dict[str, Any]:
        """JSON values, in the order in which they are printed."""
        return {
            "index": self.index,
            self.other_order: self.other_index,
            "box": [self.box.x, self.box.y, self.box.width, self.box.height],
            "landmarks": self.landmarks,
            "score": self.score,
            "size": self.size,
            "pose": None if self.pose is None else asdict(self.pose),
            "sharpness": self.sharpness,
        }


def list_faces(found: Sequence[Face], image: np.ndarray, order: Order) -> list[ListedFace]:
    """The faces in numbers, counted in this order. found: as the detector gave them, which decides
    between equals. image: uint8 RGB (H, W, 3).
    """
    photo = Photo.of(image)
    other = OTHER_ORDERS.get(order, "largest")
    others = sorted_faces(found, other, image)
    listed = []
    for index, face in enumerate(sorted_faces(found, order, image)):
        place = next(number for number, one in enumerate(others) if one is face)
        listed.append(_listed(index, face, photo, other, place))
    return listed


def _listed(
    index: int, face: Face, photo: Photo, other_order: Order, other_index: int
) -> ListedFace:
    small = face.mapped((1 / photo.scale[0], 1 / photo.scale[1]))
    pose = head_pose(face.landmarks)
    if pose is not None:
        pose = Pose(round(pose.yaw, 1), round(pose.pitch, 1), round(pose.roll, 1))
    try:
        sharpness = quality.sharpness(face_crop.align(photo.bgr, face.landmarks / photo.scale))
    # landmarks without extent: still a face to be listed
    except FaceError:
        sharpness = 0.0
    left, top, right, bottom = face.box
    return ListedFace(
        index=index,
        other_order=other_order,
        other_index=other_index,
        box=photo.in_portrait(small.box),
        landmarks=tuple((round(float(x), 1), round(float(y), 1)) for x, y in face.landmarks),
        score=round(face.score, 4),
        size=round(min(right - left, bottom - top), 1),
        pose=pose,
        sharpness=round(sharpness, 4),
    )


def draw_listed(
    image: np.ndarray, faces: Sequence[Face], listed: Sequence[ListedFace]
) -> np.ndarray:
    """The photograph with its faces marked, uint8 RGB (H, W, 3); the first is the chosen one."""
    marks = []
    for face, numbers in zip(faces, listed, strict=True):
        caption = f"{numbers.index}  ({_other(numbers)})  {face.score:.2f}"
        is_first = numbers.index == 0
        marks.append(Mark(face.box, face.landmarks, caption, is_first, _details(numbers)))
    return draw_faces(image, marks)


def _other(face: ListedFace) -> str:
    return f"{face.other_order} {face.other_index}"


def _details(face: ListedFace) -> str:
    details = f"{face.size:.0f} px  sharp {face.sharpness:.3f}"
    if face.pose is None:
        return details
    pose = face.pose
    return f"{details}\nyaw {pose.yaw:.0f}  pitch {pose.pitch:.0f}  roll {pose.roll:.0f}"


def table(faces: Sequence[ListedFace]) -> list[str]:
    """Lines for people, in columns."""
    rows = [COLUMNS, *map(_cells, faces)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [f"{text:<{width}}" for text, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _cells(face: ListedFace) -> tuple[str, ...]:
    box, pose = face.box, face.pose
    angles = ("-", "-", "-")
    if pose is not None:
        angles = (f"{pose.yaw:.0f}", f"{pose.pitch:.0f}", f"{pose.roll:.0f}")
    # as --landmarks takes them
    points = ",".join(f"{x:.0f},{y:.0f}" for x, y in face.landmarks)
    return (
        str(face.index),
        _other(face),
        f"{box.x},{box.y},{box.width},{box.height}",
        f"{face.size:.0f}",
        f"{face.score:.2f}",
        *angles,
        f"{face.sharpness:.3f}",
        points,
    )
