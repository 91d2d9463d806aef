"""What the scores of a validation come to: its pictures, and the numbers made of them.
docs/validation.md says how they are counted.

A picture of the person without a face counts as 0, the cosine of strangers: it is not like the
person, and leaving it out would reward it. Knows no file and no page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pulid_generate.pictures.scorer import Recognizer
from pulid_generate.validation.prompts import Trial

PERSON, WITHOUT, STRANGER = "person", "weight_0", "stranger"
# key in the report -> for people
RUNS = {PERSON: "the person", WITHOUT: "weight 0", STRANGER: "a stranger"}
# what a picture without a face counts
NO_FACE = 0.0

# unreadable: drawn, but cannot be scored; failed: not drawn
ShotStatus = Literal["ok", "no face", "unreadable", "failed"]
WITHOUT_COSINE = {"no face": "no face", "unreadable": "not scored", "failed": "not drawn"}


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
    # to the references
    cosine: float | None = None
    # to the strangers' pictures
    stranger: float | None = None
    # how many the picture has
    faces: int = 0
    # mean absolute change of a channel from the picture of the same prompt and seed at weight 0,
    # of 255
    moved: float | None = None
    # why it was not drawn, or has no cosine
    error: str | None = None

    @property
    def counted(self) -> float | None:
        """The cosine that means are made of; None for a picture that is not there."""
        return NO_FACE if self.status == "no face" else self.cosine

    @property
    def cosine_text(self) -> str:
        """The cosine for people, or why there is none."""
        return WITHOUT_COSINE.get(self.status) or number(self.cosine)

    def is_closer_than(self, other: Shot) -> bool:
        """Whether it is more like the person; a picture without a face is like nobody."""
        if self.cosine is None or other.counted is None:
            return False
        return self.cosine > other.counted


@dataclass(frozen=True)
class ValidatedIdentity:
    """Whose pictures were drawn: hashes of .pulidembd files, and the person's weight."""

    sha256: str
    weight: float
    # None without such a control
    stranger_sha256: str | None = None


@dataclass(frozen=True)
class KnownPicture:
    """A reference or a stranger."""

    name: str
    sha256: str
    # of a reference: the mean to all references, 1 where it is the only one
    cosine: float | None = None
    # of a reference: the highest to the strangers
    stranger: float | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole validation."""

    tool: str
    identity: ValidatedIdentity
    references: Sequence[KnownPicture]
    strangers: Sequence[KnownPicture]
    recognizer: Recognizer
    # what the pictures share, from their metadata
    settings: Mapping[str, Any]
    shots: Sequence[Shot] = field(repr=False)
    # similarity that was asked for
    minimum: float | None = None

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
    def similarity(self) -> float | None:
        """The one number: the mean over the person's pictures."""
        return self.mean_cosine(PERSON)

    @property
    def passed(self) -> bool | None:
        """None without a minimum."""
        if self.minimum is None:
            return None
        return self.similarity is not None and self.similarity >= self.minimum

    def mean_cosine(self, run: str, trial: Trial | None = None) -> float | None:
        """To the references; a picture without a face counts."""
        return mean(shot.counted for shot in self.shots_of(run, trial))

    def mean_stranger(self, run: str, trial: Trial | None = None) -> float | None:
        """To the strangers' pictures, of the faces."""
        return mean(shot.stranger for shot in self.shots_of(run, trial))

    def mean_moved(self, run: str, trial: Trial | None = None) -> float | None:
        """From weight 0, of 255."""
        return mean(shot.moved for shot in self.shots_of(run, trial))

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
        """Of the run's pictures, the share whose cosine is at least this; one without a face never
        is.
        """
        scored = [shot for shot in self.shots_of(run) if shot.counted is not None]
        if not scored:
            return None
        above = [shot for shot in scored if shot.cosine is not None and shot.cosine >= threshold]
        return len(above) / len(scored)


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are not None; None of none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def number(value: float | None, digits: int = 3) -> str:
    """For people; - where there is none, and never -0.000."""
    return "-" if value is None else f"{value:z.{digits}f}"
