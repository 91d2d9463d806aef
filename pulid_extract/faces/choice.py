"""Which face of a photograph is meant: one choice, made once, that every network follows.

Boxes in, an index out; pure geometry. Knows nothing of detectors, networks or command lines beyond
the flag names it puts into messages.

Source of the default: ToTheBeginning/PuLID 1aa2fc7, pulid/pipeline_flux.py, takes insightface's
largest face, of equals the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pulid_extract.pictures.regions import FaceBox
from pulid_extract.shared.errors import FaceError, InputError

Order = Literal["largest", "left", "right", "top", "bottom", "center"]
# x1, y1, x2, y2 in pixels, x right, y down
Box = tuple[float, float, float, float]
# width, height of the picture
Size = tuple[float, float]
# eyes, nose tip, mouth corners; of each pair the left one in the picture first
LANDMARKS = 5


def area(box: Box) -> float:
    """In square pixels."""
    return (box[2] - box[0]) * (box[3] - box[1])


def centre(box: Box) -> tuple[float, float]:
    """x, y."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _from_the_middle(box: Box, size: Size) -> float:
    (x, y), (width, height) = centre(box), size
    return (x - width / 2) ** 2 + (y - height / 2) ** 2


# What sorts first. Python's sort is stable, and equals start with the last one found.
_KEYS: dict[Order, Callable[[Box, Size], float]] = {
    "largest": lambda box, size: -area(box),
    "left": lambda box, size: centre(box)[0],
    "right": lambda box, size: -centre(box)[0],
    "top": lambda box, size: centre(box)[1],
    "bottom": lambda box, size: -centre(box)[1],
    "center": _from_the_middle,
}


@dataclass(frozen=True)
class FaceChoice:
    """The face that is meant; by default the largest. Coordinates are pixels of the upright
    portrait.

    At most one of `at`, `box` and `landmarks`, and then no index or order. Raises InputError for
    anything else.
    """

    # from 0, in `order`
    index: int = 0
    order: Order = "largest"
    # a point inside the face's box
    at: tuple[float, float] | None = None
    # a region by hand, no detector runs
    box: FaceBox | None = None
    # five points by hand, no detector runs
    landmarks: tuple[tuple[float, float], ...] | None = None

    def __post_init__(self) -> None:
        if self.order not in _KEYS:
            raise InputError(
                f"--face-order {self.order}: expected one of {', '.join(get_args(Order))}"
            )
        if self.index < 0:
            raise InputError(f"--face-index {self.index}: faces are counted from 0")
        ways = [way for way in (self.at, self.box, self.landmarks) if way is not None]
        is_counted = self.index != 0 or self.order != "largest"
        if len(ways) + is_counted > 1:
            raise InputError(
                "a face is chosen in one way: by index and order, by a point, by a box, or by "
                "landmarks"
            )
        if self.landmarks is not None and len(self.landmarks) != LANDMARKS:
            raise InputError(
                f"--landmarks: {len(self.landmarks)} points, expected {LANDMARKS}: eyes, nose tip, "
                "mouth corners"
            )

    @property
    def name(self) -> str:
        """The word for it in a .pulidembd: "largest", "largest 2", "left 0", "at", "box" or
        "landmarks".
        """
        for word in ("at", "box", "landmarks"):
            if getattr(self, word) is not None:
                return word
        if (self.order, self.index) == ("largest", 0):
            return "largest"
        return f"{self.order} {self.index}"

    @property
    def detects(self) -> bool:
        """Whether a face detector has to run."""
        return self.box is None and self.landmarks is None

    def words(self, detector: str = "") -> str:
        """ "the largest", "insightface's largest face", "the face at 10,20", for messages about a
        face that a detector found.
        """
        if self.at is not None:
            which = f"face at {self.at[0]:g},{self.at[1]:g}"
        elif self.name == "largest":
            which = "largest face" if detector else "largest"
        else:
            which = f"face {self.index} in the order '{self.order}'"
        return f"{detector}'s {which}" if detector else f"the {which}"


def in_order(boxes: Sequence[Box], order: Order, size: Size) -> list[int]:
    """The places of the boxes, first to last in this order; of equals the last one found comes
    first.
    """
    return sorted(range(len(boxes) - 1, -1, -1), key=lambda place: _KEYS[order](boxes[place], size))


def pick(boxes: Sequence[Box], choice: FaceChoice, size: Size) -> int:
    """The place of the chosen face among `boxes`, of which there is at least one.

    size: (width, height) of the picture that the boxes count in. Raises FaceError if the choice is
    not among them.
    """
    if choice.at is not None:
        return _at(boxes, choice.at)
    if choice.index >= len(boxes):
        raise FaceError(
            f"--face-index {choice.index}: there {_faces(len(boxes))}, counted from 0; "
            "`pulid-extract faces` lists them"
        )
    return in_order(boxes, choice.order, size)[choice.index]


def _at(boxes: Sequence[Box], point: tuple[float, float]) -> int:
    x, y = point

    def away(place: int) -> float:
        middle = centre(boxes[place])
        return (middle[0] - x) ** 2 + (middle[1] - y) ** 2

    around = []
    for place, (left, top, right, bottom) in enumerate(boxes):
        if left <= x <= right and top <= y <= bottom:
            around.append(place)
    if around:
        return min(around, key=away)
    nearest = min(range(len(boxes)), key=away)
    near = [round(value) for value in centre(boxes[nearest])]
    raise FaceError(
        f"--face-at {x:g},{y:g}: no face is there; the nearest of {len(boxes)} is around "
        f"{near[0]},{near[1]}; `pulid-extract faces` lists them"
    )


def _faces(count: int) -> str:
    return "is one face" if count == 1 else f"are {count} faces"
