"""What a reader must know to believe a report's numbers: one sentence for each thing that is so.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable

from pulid_extract.shared.cli.console import counted
from pulid_generate.validation.measures import MEASURES
from pulid_generate.validation.report import NO_FACE, PERSON, RUNS, STRANGER, Report

# cosine from which a stranger may not be one; as pulid_extract.networks.fusion.STRANGER
ALIKE = 0.25
# copy_paste from which it is said
COPIED = 0.2


def notes_of(report: Report) -> list[str]:
    """The sentences, in their order."""
    return [note for rule in RULES if (note := rule(report))]


def _own_recognizer(report: Report) -> str:
    first, *others = report.judges.recognizers
    if not first.own:
        return ""
    advice = "--recognizer takes an independent one."
    if others:
        advice = f"{others[0].name} stands beside it."
    return (
        f"{first.name} is the network that PuLID is conditioned on, so these numbers flatter it; "
        f"{advice}"
    )


def _no_truth(report: Report) -> str:
    if report.truths:
        return ""
    return (
        "No other photograph of the person was given (--truth), so nothing here tells a likeness "
        "from a copy of the photograph."
    )


def _copies(report: Report) -> str:
    value = MEASURES["copy_paste"].of(report)
    if value is None or value < COPIED:
        return ""
    return (
        f"On average the faces are nearer to the photograph that was given than to the person "
        f"(copy_paste {value:+.2f})."
    )


def _unjudged(report: Report) -> str:
    if report.unjudged is None:
        return ""
    return f"Whether the pictures show their prompts was not judged ({report.unjudged})."


def _faceless(report: Report) -> str:
    parts = []
    for run in report.runs:
        count = report.faceless(run)
        if count:
            parts.append(f"{count} of {len(report.shots_of(run))} of {RUNS[run]}")
    if not parts:
        return ""
    return f"No face was found in pictures: {', '.join(parts)}; each counts as {NO_FACE:g}."


def _missing(report: Report) -> str:
    count = sum(shot.counted is None for shot in report.shots)
    if not count:
        return ""
    return (
        f"{count} of {counted(len(report.shots), 'picture')} could not be drawn or scored; the "
        "means are without them."
    )


def _no_stranger(report: Report) -> str:
    if report.strangers or STRANGER in report.runs:
        return ""
    return "No stranger was given, so nothing here says how like the person somebody else would be."


def _alike(report: Report) -> str:
    highest = max((picture.stranger or 0.0 for picture in report.references), default=0.0)
    if highest < ALIKE:
        return ""
    return (
        f"The stranger's portrait is like the person's (cosine {highest:.2f}); a control wants "
        "somebody else."
    )


def _like_the_stranger(report: Report) -> str:
    compared = closer = 0
    for shot in report.shots_of(PERSON):
        if shot.likeness is not None and shot.stranger is not None:
            compared += 1
            closer += shot.stranger >= shot.likeness
    if not closer:
        return ""
    return (
        f"In {closer} of {counted(compared, 'picture')} the face is as like the stranger as the "
        "person."
    )


def _no_effect(report: Report) -> str:
    pairs, closer = len(report.pairs()), report.closer()
    if not pairs or closer * 2 > pairs:
        return ""
    return (
        f"Only in {closer} of {pairs} pairs the picture with the identity is more like the person "
        "than the one at weight 0."
    )


def _several_faces(report: Report) -> str:
    count = sum(shot.faces > 1 for shot in report.shots_of(PERSON))
    if not count:
        return ""
    return (
        f"{counted(count, 'picture')} of the person with several faces: the one most like the "
        "person counts, which flatters."
    )


# a report -> a sentence, or ""
RULES: tuple[Callable[[Report], str], ...] = (
    _own_recognizer,
    _no_truth,
    _copies,
    _unjudged,
    _faceless,
    _missing,
    _no_stranger,
    _alike,
    _like_the_stranger,
    _no_effect,
    _several_faces,
)
