"""How like a person the faces of pictures are: cosines of face vectors, and what they add up to.
Knows nothing of networks or pictures.

A picture's likeness is the mean cosine of its face to the references.

Sources: Deng et al., ArcFace (arXiv 1801.07698): the cosine of two vectors says whether they are
one person; Xu et al., WithAnyone (arXiv 2510.14975): MultiID-Bench's copy-paste.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pulid_extract.faces.head_pose import Pose
from pulid_extract.shared.cli.console import counted

ScoreStatus = Literal["ok", "no face", "failed"]
# degrees between two photographs of a person below which they are one photograph
SAME_PHOTOGRAPH = 2.0


@dataclass(frozen=True)
class Comparison:
    """One face, by one recogniser."""

    # to each reference
    cosines: tuple[float, ...]
    # the highest of its cosines to the strangers, None without any
    stranger: float | None = None
    # to each other photograph of the person
    truths: tuple[float, ...] = ()
    # see `copy_paste`; None without such photographs
    copy_paste: float | None = None

    @property
    def likeness(self) -> float:
        """What counts: the mean over the references."""
        return sum(self.cosines) / len(self.cosines)

    @property
    def best(self) -> float:
        """To the reference that it is most like."""
        return max(self.cosines)

    @property
    def truth(self) -> float | None:
        """The mean over the other photographs."""
        return sum(self.truths) / len(self.truths) if self.truths else None


@dataclass(frozen=True)
class Score:
    """One picture."""

    # as it was given
    picture: str
    status: ScoreStatus
    # of the face that was taken, by each recogniser in their order; empty unless status is "ok",
    # and without references
    comparisons: tuple[Comparison, ...] = ()
    # of that face
    pose: Pose | None = None
    # how many there are in it
    faces: int = 0
    # how well it shows its prompt: 100 times CLIP's cosine; None without one
    prompt: float | None = None
    # why it has no likeness
    error: str | None = None

    @property
    def first(self) -> Comparison | None:
        """By the first recogniser, which also says which face is meant."""
        return self.comparisons[0] if self.comparisons else None

    @property
    def likeness(self) -> float | None:
        """By the first recogniser."""
        return self.first.likeness if self.first is not None else None


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


def angle(cosine: float) -> float:
    """In radians; cosines a rounding beyond 1 are 1."""
    return math.acos(min(max(cosine, -1.0), 1.0))


def mean_angle(cosines: Sequence[float]) -> float:
    """In radians."""
    return sum(map(angle, cosines)) / len(cosines)


def copy_paste(truths: Sequence[float], references: Sequence[float], between: float) -> float:
    """Whether a face is nearer to the photograph that was given than to the person: (theta(face,
    truth) - theta(face, reference)) / theta(truth, reference), from -1 to 1. 1: the reference
    itself; 0: as near to another photograph; -1: that other photograph itself.

    truths, references: cosines of the face to photographs of the person; of several the mean angle
    counts. between: the mean angle, radians, of the truths to the references, above 0.
    """
    return (mean_angle(truths) - mean_angle(references)) / between


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


# a number of `Tally.measures` -> the option of `score` that it takes
MEASURES = {
    "mean_likeness": "--reference",
    "lowest_likeness": "--reference",
    "with_face": "--reference",
    "to_stranger": "--stranger",
    "truth_likeness": "--truth",
    "copy_paste": "--truth",
    "prompt_score": "--prompt or --prompts",
}


@dataclass
class Tally:
    """What many scores come to; keeps numbers and no pictures."""

    count: int = 0
    # of the pictures with a face: (likeness by each recogniser)
    likenesses: list[tuple[float, ...]] = field(default_factory=list)
    # the lowest likeness, and its picture
    lowest: tuple[float, str] | None = None
    without_face: int = 0
    failed: int = 0
    # pictures below the limit, those without a face among them
    below: int = 0
    # pictures in which the stranger is as like as the references
    fooled: int = 0
    # by the first recogniser, of the pictures with a face
    strangers: list[float] = field(default_factory=list)
    truths: list[float] = field(default_factory=list)
    copy_pastes: list[float] = field(default_factory=list)
    prompts: list[float] = field(default_factory=list)
    # of --min, None without one
    limit: float | None = field(default=None, kw_only=True)

    def add(self, score: Score) -> None:
        """Count one picture."""
        self.count += 1
        self.without_face += score.status == "no face"
        self.failed += score.status == "failed"
        if score.prompt is not None:
            self.prompts.append(score.prompt)
        likeness = score.likeness
        self.below += self.limit is not None and (likeness is None or likeness < self.limit)
        if score.first is None or likeness is None:
            return
        self.likenesses.append(tuple(one.likeness for one in score.comparisons))
        stranger, truth = score.first.stranger, score.first.truth
        if stranger is not None:
            self.strangers.append(stranger)
            self.fooled += stranger >= likeness
        if truth is not None:
            self.truths.append(truth)
        if score.first.copy_paste is not None:
            self.copy_pastes.append(score.first.copy_paste)
        if self.lowest is None or likeness < self.lowest[0]:
            self.lowest = (likeness, score.picture)

    @property
    def scored(self) -> int:
        """How many have a likeness."""
        return len(self.likenesses)

    @property
    def mean_likeness(self) -> float | None:
        """A picture without a face counts 0; None where no picture was compared."""
        return self._of_all(sum(one[0] for one in self.likenesses))

    def _of_all(self, total: float) -> float | None:
        """The mean over pictures that were compared, of which those without a face add 0."""
        compared = self.scored + self.without_face
        return total / compared if compared else None

    def measures(self) -> dict[str, float | None]:
        """What may be required of them, under the names that `pulid-generate validate` has for it;
        None for what nothing says.
        """
        lowest = self.lowest[0] if self.lowest is not None else None
        if self.without_face:
            lowest = min(lowest or 0.0, 0.0)
        return {
            "mean_likeness": self.mean_likeness,
            "lowest_likeness": lowest,
            "with_face": self._of_all(self.scored),
            "to_stranger": _mean(self.strangers),
            "truth_likeness": self._of_all(sum(self.truths)) if self.truths else None,
            "copy_paste": _mean(self.copy_pastes),
            "prompt_score": _mean(self.prompts),
        }

    def line(self) -> str:
        """For people."""
        parts = [counted(self.count, "picture")]
        if self.mean_likeness is not None:
            parts[0] += f": mean_likeness {self.mean_likeness:.3f}"
        if self.lowest is not None:
            parts.append(f"lowest {self.lowest[0]:.3f} ({self.lowest[1]})")
        if self.copy_pastes:
            parts.append(f"copy_paste {sum(self.copy_pastes) / len(self.copy_pastes):+.3f}")
        if self.prompts:
            parts.append(f"prompt_score {sum(self.prompts) / len(self.prompts):.2f}")
        if self.without_face:
            parts.append(f"{self.without_face} without a face, which counts 0")
        if self.failed:
            parts.append(f"{self.failed} failed")
        return ", ".join(parts)

    def agreement(self, index: int) -> float | None:
        """Pearson's correlation of the likenesses by recogniser `index` with those by the first;
        None of fewer than three, or where one of them does not vary.
        """
        if self.scored < 3:
            return None
        first = np.array([one[0] for one in self.likenesses])
        other = np.array([one[index] for one in self.likenesses])
        if not first.std() or not other.std():
            return None
        return float(np.corrcoef(first, other)[0, 1])
