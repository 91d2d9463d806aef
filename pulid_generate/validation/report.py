"""What the scores of a validation come to: the report, as numbers and as a table.
docs/validation.md is its schema.

A picture of the person without a face counts as 0, the cosine of strangers: it is not like the
person, and leaving it out would reward it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pulid_generate.validation.prompts import Trial

VERSION = 1
PERSON, WITHOUT, STRANGER = "person", "weight_0", "stranger"
# key in the report -> for people
RUNS = {PERSON: "the person", WITHOUT: "weight 0", STRANGER: "a stranger"}
THRESHOLDS = tuple(round(step * 0.05, 2) for step in range(21))
NO_FACE = 0.0  # what a picture without a face counts
WITHOUT_COSINE = {"no face": "no face", "unreadable": "not scored", "failed": "not drawn"}
ALIKE = 0.25  # cosine from which a stranger may be none; as pulid_extract.networks.fusion.STRANGER


@dataclass(frozen=True)
class Shot:
    """One picture: what was asked for, and what came of it.

    status: "ok", "no face", "unreadable" (drawn, but cannot be scored) or "failed" (not drawn).
    cosine: to the references; stranger: to the strangers' pictures. moved: mean absolute change of
    a channel from the picture of the same prompt and seed at weight 0, of 255.
    """

    trial: Trial
    seed: int
    run: str
    output: str
    sha256: str | None = None
    status: str = "failed"
    cosine: float | None = None
    stranger: float | None = None
    faces: int = 0
    moved: float | None = None
    error: str | None = None

    @property
    def counted(self) -> float | None:
        """The cosine that means are made of; None for a picture that is not there."""
        return NO_FACE if self.status == "no face" else self.cosine

    @property
    def told(self) -> str:
        """The cosine for people, or why there is none."""
        return WITHOUT_COSINE.get(self.status) or number(self.cosine)


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole validation.

    references, strangers: facts about those pictures. recognizer: name, sha256, own. settings: what
    the pictures share.
    """

    tool: str
    identity: Mapping[str, Any]
    references: Sequence[Mapping[str, Any]]
    strangers: Sequence[Mapping[str, Any]]
    recognizer: Mapping[str, Any]
    settings: Mapping[str, Any]
    shots: Sequence[Shot] = field(repr=False)
    minimum: float | None = None

    @property
    def runs(self) -> list[str]:
        """Those that are there, in their order."""
        there = {shot.run for shot in self.shots}
        return [run for run in RUNS if run in there]

    @property
    def trials(self) -> list[Trial]:
        return list(dict.fromkeys(shot.trial for shot in self.shots))

    def of(self, run: str, trial: Trial | None = None) -> list[Shot]:
        return [shot for shot in self.shots if shot.run == run and trial in (None, shot.trial)]

    @property
    def similarity(self) -> float | None:
        """The one number: the mean over the person's pictures."""
        return mean(shot.counted for shot in self.of(PERSON))

    @property
    def passed(self) -> bool | None:
        """None without a minimum."""
        if self.minimum is None:
            return None
        return self.similarity is not None and self.similarity >= self.minimum

    def pairs(self) -> list[tuple[Shot, Shot]]:
        """(the person, weight 0) of each prompt and seed where both could be scored."""
        others = {(shot.trial, shot.seed): shot for shot in self.of(WITHOUT)}
        found = [
            (shot, others[shot.trial, shot.seed])
            for shot in self.of(PERSON)
            if (shot.trial, shot.seed) in others
        ]
        return [
            (shot, other)
            for shot, other in found
            if shot.counted is not None and other.counted is not None
        ]

    def share_above(self, run: str, threshold: float) -> float | None:
        """Of the run's pictures, the share whose cosine is at least this; one without a face never
        is.
        """
        scored = [shot for shot in self.of(run) if shot.counted is not None]
        return (
            sum(shot.cosine is not None and shot.cosine >= threshold for shot in scored)
            / len(scored)
            if scored
            else None
        )

    def notes(self) -> list[str]:
        """What a reader must know to believe the numbers, each one sentence."""
        return [text for text in (rule(self) for rule in NOTES) if text]

    def as_dict(self) -> dict[str, Any]:
        pairs = self.pairs()
        return {
            "version": VERSION,
            "tool": self.tool,
            "passed": self.passed,
            "min_similarity": self.minimum,
            "similarity": rounded(self.similarity),
            "closer_than_weight_0": {
                "pairs": len(pairs),
                "closer": sum(_closer(*pair) for pair in pairs),
            },
            "identity": dict(self.identity),
            "references": [dict(facts) for facts in self.references],
            "strangers": [dict(facts) for facts in self.strangers],
            "recognizer": dict(self.recognizer),
            "settings": dict(self.settings),
            "notes": self.notes(),
            "runs": {run: self._summary(run) for run in self.runs},
            "thresholds": list(THRESHOLDS),
            "share_above": {
                run: [rounded(self.share_above(run, threshold)) for threshold in THRESHOLDS]
                for run in self.runs
            },
            "prompts": [
                {
                    "name": trial.name,
                    "aspect": trial.aspect,
                    "prompt": trial.text,
                    "similarity": {
                        run: rounded(mean(shot.counted for shot in self.of(run, trial)))
                        for run in self.runs
                    },
                    "moved": rounded(mean(shot.moved for shot in self.of(PERSON, trial))),
                }
                for trial in self.trials
            ],
            "pictures": [_picture(shot) for shot in self.shots],
        }

    def _summary(self, run: str) -> dict[str, Any]:
        shots = self.of(run)
        found = [shot.cosine for shot in shots if shot.cosine is not None]
        return {
            "pictures": len(shots),
            "with_face": len(found),
            "without_face": sum(shot.status == "no face" for shot in shots),
            "failed": sum(shot.status in ("failed", "unreadable") for shot in shots),
            "similarity": rounded(mean(shot.counted for shot in shots)),
            "of_faces": rounded(mean(found)),
            "lowest": rounded(min(found, default=None)),
            "highest": rounded(max(found, default=None)),
            "to_stranger": rounded(mean(shot.stranger for shot in shots)),
            "moved": rounded(mean(shot.moved for shot in shots)),
        }

    def as_table(self) -> str:
        """For the terminal: a line for each prompt, then the means."""
        width = max(len("prompt"), *(len(trial.name) for trial in self.trials))
        lines = [
            f"{'prompt':<{width}}  "
            + "".join(f"{RUNS[run]:>12}" for run in self.runs)
            + f"{'moved':>9}"
        ]
        for trial in [*self.trials, None]:
            cells = [mean(shot.counted for shot in self.of(run, trial)) for run in self.runs]
            moved = mean(shot.moved for shot in self.of(PERSON, trial))
            name = trial.name if trial is not None else "mean"
            lines.append(
                f"{name:<{width}}  "
                + "".join(f"{number(cell):>12}" for cell in cells)
                + f"{number(moved, 1):>9}"
            )
        return "\n".join(lines)


def _picture(shot: Shot) -> dict[str, Any]:
    return {
        "prompt": shot.trial.name,
        "seed": shot.seed,
        "run": shot.run,
        "output": shot.output,
        "sha256": shot.sha256,
        "status": shot.status,
        "cosine": rounded(shot.cosine),
        "stranger": rounded(shot.stranger),
        "faces": shot.faces,
        "moved": rounded(shot.moved),
        "error": shot.error,
    }


# ------------------------------------------------------------------------------------- what to know


def _judge(report: Report) -> str:
    if report.recognizer["own"]:
        return (
            f"{report.recognizer['name']} is the network that PuLID is conditioned on, so these numbers flatter it; --recognizer takes "
            f"an independent one."
        )
    return ""


def _faceless(report: Report) -> str:
    counts = {run: sum(shot.status == "no face" for shot in report.of(run)) for run in report.runs}
    if not any(counts.values()):
        return ""
    told = ", ".join(
        f"{count} of {len(report.of(run))} of {RUNS[run]}" for run, count in counts.items() if count
    )
    return f"No face was found in pictures: {told}; each counts as {NO_FACE:g}."


def _missing(report: Report) -> str:
    count = sum(shot.counted is None for shot in report.shots)
    return (
        f"{count} of {_pictures(len(report.shots))} could not be drawn or scored; the means are without them."
        if count
        else ""
    )


def _no_stranger(report: Report) -> str:
    if report.strangers or STRANGER in report.runs:
        return ""
    return "No stranger was given, so nothing here says how like the person somebody else would be."


def _alike(report: Report) -> str:
    highest = max((facts["stranger"] or 0.0 for facts in report.references), default=0.0)
    if highest < ALIKE:
        return ""
    return f"The stranger's portrait is like the person's (cosine {highest:.2f}); a control wants somebody else."


def _fooled(report: Report) -> str:
    shots = [
        shot for shot in report.of(PERSON) if shot.cosine is not None and shot.stranger is not None
    ]
    count = sum(shot.stranger >= shot.cosine for shot in shots)  # type: ignore[operator]
    return (
        f"In {count} of {_pictures(len(shots))} the face is as like the stranger as the person."
        if count
        else ""
    )


def _no_effect(report: Report) -> str:
    pairs = report.pairs()
    closer = sum(_closer(*pair) for pair in pairs)
    if not pairs or closer * 2 > len(pairs):
        return ""
    return f"Only in {closer} of {len(pairs)} pairs the picture with the identity is more like the person than the one at weight 0."


def _several(report: Report) -> str:
    count = sum(shot.faces > 1 for shot in report.of(PERSON))
    if not count:
        return ""
    return f"{_pictures(count)} of the person with several faces: the one most like the person counts, which flatters."


NOTES: tuple[Callable[[Report], str], ...] = (
    *(_judge, _faceless, _missing, _no_stranger, _alike, _fooled, _no_effect, _several),
)


def _pictures(count: int) -> str:
    return f"{count} picture{'s' * (count != 1)}"


def _closer(shot: Shot, other: Shot) -> bool:
    """A picture without a face is like nobody."""
    return shot.cosine is not None and other.counted is not None and shot.cosine > other.counted


# ------------------------------------------------------------------------------------------ numbers


def mean(values: Any) -> float | None:
    """Of those that are there; None of none."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def number(value: float | None, digits: int = 3) -> str:
    """For people; - where there is none, and never -0.000."""
    return "-" if value is None else f"{value:z.{digits}f}"
