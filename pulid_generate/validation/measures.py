"""The numbers of a report, each with a name, and what may be required of them. docs/validation.md
says what each means. Imports no torch.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from pulid_extract.shared.requirements import parse_clauses
from pulid_generate.pictures.score_lines import Pose
from pulid_generate.validation.report import (
    NO_FACE,
    PERSON,
    RUNS,
    WITHOUT,
    Measure,
    Report,
    Requirement,
    Shot,
    mean,
    number,
)

# degrees: where weight 0 turns the head less than this, nothing can be said about freedom
LEAST_TURN = 1.0
# what `Measure.needs` calls it
JUDGE_OF_PROMPTS = "a judge of prompts"
# faces below which a correlation says nothing
FEWEST = 3


def _lowest(report: Report) -> float | None:
    counted = [shot.counted for shot in report.shots_of(PERSON) if shot.counted is not None]
    return min(counted, default=None)


def _with_face(report: Report) -> float | None:
    scored = [shot for shot in report.shots_of(PERSON) if shot.counted is not None]
    if not scored:
        return None
    return sum(shot.status != "no face" for shot in scored) / len(scored)


def _closer(report: Report) -> float | None:
    pairs = len(report.pairs())
    return report.closer() / pairs if pairs else None


def _truth(report: Report) -> float | None:
    if not report.truths:
        return None
    return report.mean_of(lambda shot: NO_FACE if shot.status == "no face" else shot.truth)


def prompt_change(shot: Shot, base: Shot) -> float | None:
    """CLIPScore points that the identity costs or gains."""
    if shot.prompt_score is None or base.prompt_score is None:
        return None
    return shot.prompt_score - base.prompt_score


def _prompt(report: Report) -> float | None:
    return mean(prompt_change(shot, base) for shot, base in report.pairs())


def turned(report: Report, run: str) -> float | None:
    """Degrees between the heads of a run and the portrait's, over the prompts that ask for
    poses.
    """
    angles = []
    for trial in report.trials:
        if trial.asks_for_pose:
            angles += [shot.turned for shot in report.shots_of(run, trial)]
    return mean(angles)


def _pose_freedom(report: Report) -> float | None:
    free, held = turned(report, WITHOUT), turned(report, PERSON)
    if free is None or held is None or free < LEAST_TURN:
        return None
    return held / free


def _seconds(report: Report) -> float | None:
    return mean(shot.seconds for shot in report.shots)


def _memory(report: Report) -> float | None:
    return report.memory.bytes / 2**30 if report.memory is not None else None


MEASURES = {
    measure.name: measure
    for measure in (
        Measure(
            "mean_likeness",
            "mean cosine of the person's pictures; one without a face counts 0",
            lambda report: report.mean_likeness(PERSON),
        ),
        Measure("lowest_likeness", "of the picture that is least like the person", _lowest),
        Measure("with_face", "share of the person's pictures that have a face", _with_face),
        Measure(
            "closer", "share of pairs in which the identity made the picture more alike", _closer
        ),
        Measure(
            "to_stranger",
            "mean cosine of the person's pictures to the stranger's portrait",
            lambda report: report.mean_of(lambda shot: shot.stranger),
            needs="--stranger",
        ),
        Measure(
            "truth_likeness",
            "mean cosine to other photographs of the person; one without a face counts 0",
            _truth,
            needs="--truth",
        ),
        Measure(
            "copy_paste",
            "nearer to the photograph given (above 0) than to the person, by angles, -1 to 1",
            lambda report: report.mean_of(lambda shot: shot.copy_paste),
            needs="--truth",
        ),
        Measure(
            "prompt",
            "CLIPScore points gained or lost against weight 0",
            _prompt,
            2,
            needs=JUDGE_OF_PROMPTS,
        ),
        Measure(
            "prompt_score",
            "CLIPScore of the person's pictures",
            lambda report: report.mean_of(lambda shot: shot.prompt_score),
            2,
            needs=JUDGE_OF_PROMPTS,
        ),
        Measure(
            "pose_freedom",
            "how far heads turn from the portrait's pose; 1: as far as at weight 0",
            _pose_freedom,
            2,
        ),
        Measure(
            "moved",
            "mean change of a channel against weight 0, of 255",
            lambda report: report.mean_of(lambda shot: shot.moved),
            1,
        ),
        Measure(
            "disruption",
            "the same outside the head",
            lambda report: report.mean_of(lambda shot: shot.disruption),
            1,
        ),
        Measure("seconds", "that a picture took", _seconds, 2),
        Measure("memory_gib", "GiB that drawing took at most", _memory, 2),
    )
}


def agreement(report: Report, index: int) -> float | None:
    """Pearson's correlation of the likenesses by one recogniser with those by the first, over all
    pictures with a face; None of too few, or where one of them does not vary.
    """
    pairs = []
    for shot in report.shots:
        first, other = (shot.by_each[at] if at < len(shot.by_each) else None for at in (0, index))
        if first is not None and other is not None:
            pairs.append((first, other))
    if len(pairs) < FEWEST:
        return None
    try:
        return statistics.correlation(*zip(*pairs, strict=True))
    except statistics.StatisticsError:
        return None


def by_recognizers(report: Report) -> list[tuple[str, str, str]]:
    """For people, of each recogniser: what its likeness is called, that of the person, and what
    else there is to know of it: whether PuLID is conditioned on it, the other runs, and how far it
    agrees with the first.
    """
    lines = []
    for index, recognizer in enumerate(report.judges.recognizers):
        means = []
        for run in report.runs:
            means.append(f"{RUNS[run]} {number(report.likeness_by(index, run))}")
        text = "the network that PuLID is conditioned on: " if recognizer.own else ""
        text += ", ".join(means)
        if index:
            text += f"; correlation with the first {number(agreement(report, index), 2)}"
        person = number(report.likeness_by(index, PERSON))
        lines.append((f"by {recognizer.name}", person, text))
    return lines


# --------------------------------------------------------------------------------------- head poses

Matrix = tuple[tuple[float, float, float], ...]


def angle_between(pose: Pose, other: Pose) -> float:
    """Degrees of the one turn that leads from a head's pose to another's."""
    a, b = _rotation(pose), _rotation(other)
    trace = sum(a[row][column] * b[row][column] for row in range(3) for column in range(3))
    return math.degrees(math.acos(min(max((trace - 1) / 2, -1.0), 1.0)))


def _rotation(pose: Pose) -> Matrix:
    """R = Rz(roll) Ry(-yaw) Rx(-pitch), as pulid_extract.faces.head_pose takes it apart."""
    x, y, z = (math.radians(value) for value in (-pose.pitch, -pose.yaw, pose.roll))
    (sx, cx), (sy, cy), (sz, cz) = ((math.sin(value), math.cos(value)) for value in (x, y, z))
    return (
        (cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
        (sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
        (-sy, cy * sx, cy * cx),
    )


# ------------------------------------------------------------------------------------- requirements


def parse_requirements(texts: Sequence[str]) -> list[Requirement]:
    """Of --require. Raises UsageError for what is none, naming the measures there are."""
    return [Requirement(MEASURES[one.name], one) for one in parse_clauses(texts, MEASURES)]
