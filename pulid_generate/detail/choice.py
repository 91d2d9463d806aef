"""Whose face is which: by the person's region, else by likeness, else the largest.

Pure: boxes and numbers in, numbers out. Nobody is given two faces, and no face to two people.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pulid_generate.detail.faces import FoundFace
from pulid_generate.files.layouts import TOKEN_PIXELS

# Share of a face's box that a region must hold: regions of several people add up to 1 at most, so
# that no face is in two
INSIDE = 0.5


@dataclass(frozen=True, eq=False)
class Wanted:
    """Somebody whose face is looked for."""

    # as in `FoundFace.likeness`
    name: str
    # (rows, columns) float32 in [0, 1], a number for 16 x 16 pixels; None for the whole picture
    region: np.ndarray | None = field(default=None, repr=False)


def choose_faces(faces: Sequence[FoundFace], people: Sequence[Wanted]) -> list[int | None]:
    """For each face the place of its owner among the people, None for a face that is nobody's.

    A person with a region has only faces that lie in it for more than a half. Of several the most
    like the references, and without references the largest. What two people claim goes to whom it
    is more like.
    """
    claims = []
    for place, person in enumerate(people):
        for number, face in enumerate(faces):
            if person.region is None or share_inside(face, person.region) > INSIDE:
                claims.append((_rank(face, person), number, place))
    owners: list[int | None] = [None] * len(faces)
    # of equal ranks, the earlier face and person
    for _, number, place in sorted(claims, key=lambda claim: (-claim[0], *claim[1:])):
        if owners[number] is None and place not in owners:
            owners[number] = place
    return owners


def _rank(face: FoundFace, person: Wanted) -> float:
    """By likeness where there is one, else by size."""
    return face.likeness.get(person.name, face.area)


def share_inside(face: FoundFace, region: np.ndarray) -> float:
    """The mean of a region (rows, columns) over the face's box, cells weighted by how much of them
    the box covers.
    """
    x, y, width, height = face.box
    rows = _covered(y, height, region.shape[0])
    columns = _covered(x, width, region.shape[1])
    covered = float(rows.sum() * columns.sum())
    if not covered:
        return 0.0
    inside = float(rows @ region @ columns) / covered
    return inside if math.isfinite(inside) else 0.0


def _covered(start: int, length: int, cells: int) -> np.ndarray:
    """(cells,) pixels of each cell along one axis that start..start+length covers."""
    edges = np.clip(np.arange(cells + 1) * TOKEN_PIXELS, start, start + length)
    return np.diff(edges).astype(np.float64)
