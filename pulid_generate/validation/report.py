"""What the scores of a validation come to: its pictures, and sums over them. docs/validation.md
says how they are counted; the numbers that are made of these are `measures`.

A picture of the person without a face counts as 0, the likeness of strangers: it is not like the
person, and leaving it out would reward it. Knows no file and no page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pulid_extract.shared.requirements import Clause
from pulid_generate.pictures.score_lines import Judges, Pose
from pulid_generate.validation.prompts import Trial

PERSON, WITHOUT, STRANGER = "person", "weight_0", "stranger"
# key in the report -> for people
RUNS = {PERSON: "the person", WITHOUT: "weight 0", STRANGER: "a stranger"}
# what a picture without a face counts
NO_FACE = 0.0

# unreadable: drawn, but cannot be scored; failed: not drawn
ShotStatus = Literal["ok", "no face", "unreadable", "failed"]
WITHOUT_LIKENESS = {"no face": "no face", "unreadable": "not scored", "failed": "not drawn"}


@dataclass(frozen=True)
class Shot:
    """One picture: what was asked for, and what came of it."""

    trial: Trial
    seed: int
    # a key of RUNS
    run: str
    # the file's name in the report's folder
    output: str
    sha256: str | None = None
    status: ShotStatus = "failed"
    # the cosine to the references
    likeness: float | None = None
    # to the strangers' pictures
    stranger: float | None = None
    # how many the picture has
    faces: int = 0
    # mean absolute change of a channel from the picture of the same prompt and seed at weight 0,
    # of 255
    moved: float | None = None
    # the same, outside the heads of both
    disruption: float | None = None
    # to other photographs of the person
    truth: float | None = None
    # how much nearer to the references than to those: -1 to 1
    copy_paste: float | None = None
    # likeness by each recogniser; empty without a face
    by_each: tuple[float | None, ...] = ()
    # 100 times CLIP's cosine to the prompt
    prompt_score: float | None = None
    # of the face
    pose: Pose | None = None
    # degrees from the pose of the reference that it is nearest to
    turned: float | None = None
    # that it took to draw; None for one that was there already
    seconds: float | None = None
    # why it was not drawn, or has no likeness
    error: str | None = None

    @property
    def counted(self) -> float | None:
        """The likeness that means are made of; None for a picture that is not there."""
        return NO_FACE if self.status == "no face" else self.likeness

    @property
    def likeness_text(self) -> str:
        """The likeness for people, or why there is none."""
        return WITHOUT_LIKENESS.get(self.status) or number(self.likeness)

    def is_closer_than(self, other: Shot) -> bool:
        """Whether it is more like the person; a picture without a face is like nobody."""
        if self.likeness is None or other.counted is None:
            return False
        return self.likeness > other.counted


@dataclass(frozen=True)
class ValidatedIdentity:
    """Whose pictures were drawn: hashes of .pulidembd files, and the person's weight."""

    # of the file
    name: str
    sha256: str
    weight: float
    # None without such a control
    stranger_sha256: str | None = None


@dataclass(frozen=True)
class KnownPicture:
    """A reference, another photograph of the person, or a stranger."""

    name: str
    sha256: str
    # of a reference: the mean to all references, 1 where it is the only one
    likeness: float | None = None
    # of a reference: the highest to the strangers
    stranger: float | None = None
    # of a reference: to the other photographs of the person
    truth: float | None = None


@dataclass(frozen=True)
class Measure:
    """One number of a report."""

    name: str
    # for people
    text: str
    # None where there is none
    of: Callable[[Report], float | None]
    # digits after the point, for people
    digits: int = 3
    # what it takes to have one, for who requires it; "" for what is always there
    needs: str = ""


@dataclass(frozen=True)
class Requirement:
    """What a measure must be."""

    measure: Measure
    clause: Clause

    def __str__(self) -> str:
        return str(self.clause)

    def is_met(self, report: Report) -> bool:
        """A number that is not there meets nothing."""
        return self.clause.is_met(self.measure.of(report))


@dataclass(frozen=True)
class Memory:
    """What the drawing took at most."""

    bytes: int
    # "cuda" for a GPU's, "cpu" for the process's
    device: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole validation."""

    tool: str
    # ISO 8601, with its offset from UTC
    created: str
    # as it would be typed
    command: str
    identity: ValidatedIdentity
    references: Sequence[KnownPicture]
    strangers: Sequence[KnownPicture]
    # other photographs of the person
    truths: Sequence[KnownPicture] = ()
    judges: Judges
    # why prompts were not judged, where they were not
    unjudged: str | None = None
    # what the pictures share, from their metadata
    settings: Mapping[str, Any]
    shots: Sequence[Shot] = field(repr=False)
    # the most that the drawing took, in bytes, and where; None if nothing was drawn
    memory: Memory | None = None
    # what must be so
    requirements: Sequence[Requirement] = ()

    @property
    def runs(self) -> list[str]:
        """Those that are there, in their order."""
        drawn = {shot.run for shot in self.shots}
        return [run for run in RUNS if run in drawn]

    @property
    def trials(self) -> list[Trial]:
        """In their order."""
        return list(dict.fromkeys(shot.trial for shot in self.shots))

    def shots_of(self, run: str, trial: Trial | None = None) -> list[Shot]:
        """The pictures of a run, and of one trial or all."""
        return [shot for shot in self.shots if shot.run == run and trial in (None, shot.trial)]

    @property
    def passed(self) -> bool | None:
        """None where nothing is required."""
        if not self.requirements:
            return None
        return all(requirement.is_met(self) for requirement in self.requirements)

    def mean_likeness(self, run: str, trial: Trial | None = None) -> float | None:
        """To the references; a picture without a face counts."""
        return mean(shot.counted for shot in self.shots_of(run, trial))

    def likeness_by(self, index: int, run: str) -> float | None:
        """By one recogniser; a picture without a face counts."""
        found: list[float | None] = []
        for shot in self.shots_of(run):
            found.append(NO_FACE if shot.status == "no face" else _at(shot.by_each, index))
        return mean(found)

    def mean_of(
        self, value: Callable[[Shot], float | None], run: str = PERSON, trial: Trial | None = None
    ) -> float | None:
        """Of the pictures that have the value."""
        return mean(value(shot) for shot in self.shots_of(run, trial))

    def faceless(self, run: str, trial: Trial | None = None) -> int:
        """How many pictures have no face."""
        return sum(shot.status == "no face" for shot in self.shots_of(run, trial))

    def pairs(self) -> list[tuple[Shot, Shot]]:
        """(the person, weight 0) of each prompt and seed where both could be scored."""
        others = {(shot.trial, shot.seed): shot for shot in self.shots_of(WITHOUT)}
        pairs = []
        for shot in self.shots_of(PERSON):
            other = others.get((shot.trial, shot.seed))
            if other is None or shot.counted is None or other.counted is None:
                continue
            pairs.append((shot, other))
        return pairs

    def closer(self) -> int:
        """Of the pairs, how many in which the identity made the picture more like the person."""
        return sum(shot.is_closer_than(other) for shot, other in self.pairs())

    def share_above(self, run: str, threshold: float) -> float | None:
        """Of the run's pictures, the share whose likeness is at least this; one without a face
        never is.
        """
        scored = [shot for shot in self.shots_of(run) if shot.counted is not None]
        if not scored:
            return None
        above = 0
        for shot in scored:
            above += shot.likeness is not None and shot.likeness >= threshold
        return above / len(scored)


def _at(values: Sequence[float | None], index: int) -> float | None:
    return values[index] if index < len(values) else None


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are not None; None of none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def number(value: float | None, digits: int = 3) -> str:
    """For people; - where there is none, and never -0.000."""
    return "-" if value is None else f"{value:z.{digits}f}"
