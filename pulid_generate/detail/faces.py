"""A face that was found in a picture, and the order in which faces count. Knows nobody.

Source of the orders and the filters: leejet/stable-diffusion.cpp 97d29908 src/detailer.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pulid_generate.request.passes.detail import DetailSettings, SortBy


@dataclass(frozen=True)
class FoundFace:
    """One face, in pixels of the picture."""

    # X, Y, width, height
    box: tuple[int, int, int, int]
    # the detector's
    score: float
    # name of somebody who is looked for -> how like this face is, the mean cosine to the references
    likeness: Mapping[str, float] = field(default_factory=dict)

    @property
    def area(self) -> int:
        return self.box[2] * self.box[3]

    @property
    def centre(self) -> tuple[float, float]:
        x, y, width, height = self.box
        return x + width / 2, y + height / 2


def counted_faces(
    faces: Sequence[FoundFace], settings: DetailSettings, width: int, height: int
) -> list[FoundFace]:
    """The faces that the settings let through, in the order in which they count: the first takes
    the first prompt and the picture's seed. width, height: of the picture.
    """
    surest = sorted(faces, key=lambda face: face.score, reverse=True)
    kept = []
    for face in surest[: settings.max_detections]:
        share = face.area / (width * height)
        if settings.mask_min_ratio <= share <= settings.mask_max_ratio:
            kept.append(face)
    if settings.mask_k_largest:
        largest = sorted(kept, key=lambda face: face.area, reverse=True)
        chosen = largest[: settings.mask_k_largest]
        kept = [face for face in kept if face in chosen]
    order = _orders(width, height).get(settings.sort_by)
    return kept if order is None else sorted(kept, key=order)


def _orders(width: int, height: int) -> dict[SortBy, Callable[[FoundFace], float]]:
    def from_centre(face: FoundFace) -> float:
        x, y = face.centre
        return (x - width / 2) ** 2 + (y - height / 2) ** 2

    return {
        "left_to_right": lambda face: face.box[0],
        "center_to_edge": from_centre,
        "area": lambda face: -face.area,
    }
