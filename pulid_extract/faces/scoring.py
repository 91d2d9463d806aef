"""How like a person the faces of pictures are: cosines of face vectors, and what they add up to.
Knows nothing of networks or pictures.

Source: Deng et al., ArcFace (arXiv 1801.07698): the cosine of two vectors says whether they are one
person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pulid_extract.shared.cli.console import counted

ScoreStatus = Literal["ok", "no face", "failed"]


@dataclass(frozen=True)
class Score:
    """One picture."""

    # as it was given
    picture: str
    status: ScoreStatus
    # of the face that was taken, to each reference; empty unless status is "ok"
    cosines: tuple[float, ...] = ()
    # the highest of its cosines to the strangers, None without any
    stranger: float | None = None
    # how many there are in it
    faces: int = 0
    # why it has no cosine
    error: str | None = None

    @property
    def mean(self) -> float | None:
        """What counts: the mean over the references."""
        return sum(self.cosines) / len(self.cosines) if self.cosines else None

    @property
    def best(self) -> float | None:
        """To the reference that it is most like."""
        return max(self.cosines, default=None)


def cosines_to(vector: np.ndarray, others: Sequence[np.ndarray]) -> tuple[float, ...]:
    """The cosine of a (D,) vector to each of the others, float64. A vector of length 0 has cosine 0
    to all.
    """
    cosines = []
    for other in others:
        a, b = vector.astype(np.float64), other.astype(np.float64)
        length = float(np.linalg.norm(a) * np.linalg.norm(b))
        cosines.append(float(a @ b) / length if length > 0 else 0.0)
    return tuple(cosines)


def most_alike(vectors: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> int:
    """The place of the face, of at least one, whose mean cosine to the references is highest."""
    return int(np.argmax([np.mean(cosines_to(vector, references)) for vector in vectors]))


@dataclass
class Tally:
    """What many scores come to, without keeping them."""

    count: int = 0
    scored: int = 0
    # of the means
    total: float = 0.0
    # the lowest mean, and its picture
    lowest: tuple[float, str] | None = None
    without_face: int = 0
    failed: int = 0
    # pictures below the limit, those without a face among them
    below: int = 0
    # pictures in which the stranger is as like as the references
    fooled: int = 0
    # of --min, None without one
    limit: float | None = field(default=None, kw_only=True)

    def add(self, score: Score) -> None:
        """Count one picture."""
        self.count += 1
        self.without_face += score.status == "no face"
        self.failed += score.status == "failed"
        mean = score.mean
        if mean is not None:
            self.scored += 1
            self.total += mean
            self.fooled += score.stranger is not None and score.stranger >= mean
            if self.lowest is None or mean < self.lowest[0]:
                self.lowest = (mean, score.picture)
        self.below += self.limit is not None and (mean is None or mean < self.limit)

    @property
    def mean(self) -> float | None:
        """Over the pictures that have one."""
        return self.total / self.scored if self.scored else None

    def line(self) -> str:
        """For people."""
        parts = [counted(self.count, "picture")]
        if self.mean is not None and self.lowest is not None:
            parts[0] += f": mean {self.mean:.3f}, lowest {self.lowest[0]:.3f} ({self.lowest[1]})"
        if self.without_face:
            parts.append(f"{self.without_face} without a face")
        if self.failed:
            parts.append(f"{self.failed} failed")
        return ", ".join(parts)
