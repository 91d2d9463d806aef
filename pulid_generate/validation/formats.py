"""A report as JSON, and as a table for the terminal. docs/validation.md is the schema. Imports no
torch.
"""

from __future__ import annotations

from typing import Any

from pulid_generate.validation.measures import MEASURES, agreement, by_recognizers, turned
from pulid_generate.validation.notes import notes_of
from pulid_generate.validation.prompts import Trial
from pulid_generate.validation.report import (
    PERSON,
    RUNS,
    KnownPicture,
    Report,
    Requirement,
    Shot,
    ValidatedIdentity,
    mean,
    number,
)

VERSION = 2
THRESHOLDS = tuple(round(step * 0.05, 2) for step in range(21))


def as_dict(report: Report) -> dict[str, Any]:
    """What report.json holds."""
    measures = {}
    for name, measure in MEASURES.items():
        measures[name] = _rounded(measure.of(report))
    judge = report.judges.prompt
    memory = report.memory
    return {
        "version": VERSION,
        "tool": report.tool,
        "created": report.created,
        "command": report.command,
        "passed": report.passed,
        "requirements": [_requirement(report, one) for one in report.requirements],
        "measures": measures,
        "closer_than_weight_0": {"pairs": len(report.pairs()), "closer": report.closer()},
        "identity": _identity(report.identity),
        "references": [_known(picture) for picture in report.references],
        "truths": [_named(picture) for picture in report.truths],
        "strangers": [_named(picture) for picture in report.strangers],
        "recognizers": _recognizers(report),
        "prompt_judge": vars(judge) if judge is not None else None,
        "memory": vars(memory) if memory is not None else None,
        "settings": dict(report.settings),
        "notes": notes_of(report),
        "runs": {run: _summary(report, run) for run in report.runs},
        "thresholds": list(THRESHOLDS),
        "share_above": {run: _shares(report, run) for run in report.runs},
        "prompts": [_prompt(report, trial) for trial in report.trials],
        "pictures": [_picture(shot) for shot in report.shots],
    }


def _requirement(report: Report, requirement: Requirement) -> dict[str, Any]:
    return {
        "measure": requirement.measure.name,
        "sign": requirement.clause.sign,
        "limit": requirement.clause.limit,
        "value": _rounded(requirement.measure.of(report)),
        "met": requirement.is_met(report),
    }


def _named(picture: KnownPicture) -> dict[str, Any]:
    return {"name": picture.name, "sha256": picture.sha256}


def _known(picture: KnownPicture) -> dict[str, Any]:
    return _named(picture) | {
        "likeness": picture.likeness,
        "stranger": picture.stranger,
        "truth": picture.truth,
    }


def _recognizers(report: Report) -> list[dict[str, Any]]:
    """The first one's likeness is the one that counts everywhere else."""
    told = []
    for index, recognizer in enumerate(report.judges.recognizers):
        told.append(
            {
                "name": recognizer.name,
                "sha256": recognizer.sha256,
                "own": recognizer.own,
                "mean_likeness": {
                    run: _rounded(report.likeness_by(index, run)) for run in report.runs
                },
                "agreement": _rounded(agreement(report, index)) if index else None,
            }
        )
    return told


def _identity(identity: ValidatedIdentity) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": identity.name,
        "sha256": identity.sha256,
        "weight": identity.weight,
    }
    if identity.stranger_sha256 is not None:
        facts["stranger_sha256"] = identity.stranger_sha256
    return facts


def _summary(report: Report, run: str) -> dict[str, Any]:
    shots = report.shots_of(run)
    found = [shot.likeness for shot in shots if shot.likeness is not None]
    return {
        "pictures": len(shots),
        "with_face": len(found),
        "without_face": report.faceless(run),
        "failed": sum(shot.status in ("failed", "unreadable") for shot in shots),
        "mean_likeness": _rounded(report.mean_likeness(run)),
        "of_faces": _rounded(mean(found)),
        "lowest": _rounded(min(found, default=None)),
        "highest": _rounded(max(found, default=None)),
        "to_stranger": _rounded(report.mean_of(lambda shot: shot.stranger, run)),
        "truth": _rounded(report.mean_of(lambda shot: shot.truth, run)),
        "copy_paste": _rounded(report.mean_of(lambda shot: shot.copy_paste, run)),
        "prompt_score": _rounded(report.mean_of(lambda shot: shot.prompt_score, run)),
        "turned": _rounded(turned(report, run)),
        "moved": _rounded(report.mean_of(lambda shot: shot.moved, run)),
        "disruption": _rounded(report.mean_of(lambda shot: shot.disruption, run)),
    }


def _shares(report: Report, run: str) -> list[float | None]:
    return [_rounded(report.share_above(run, threshold)) for threshold in THRESHOLDS]


def _prompt(report: Report, trial: Trial) -> dict[str, Any]:
    return {
        "name": trial.name,
        "aspect": trial.aspect,
        "prompt": trial.text,
        "likeness": {run: _rounded(report.mean_likeness(run, trial)) for run in report.runs},
        "copy_paste": _rounded(report.mean_of(lambda shot: shot.copy_paste, PERSON, trial)),
        "prompt_score": {
            run: _rounded(report.mean_of(lambda shot: shot.prompt_score, run, trial))
            for run in report.runs
        },
        "moved": _rounded(report.mean_of(lambda shot: shot.moved, PERSON, trial)),
        "disruption": _rounded(report.mean_of(lambda shot: shot.disruption, PERSON, trial)),
    }


def _picture(shot: Shot) -> dict[str, Any]:
    return {
        "prompt": shot.trial.name,
        "seed": shot.seed,
        "run": shot.run,
        "output": shot.output,
        "sha256": shot.sha256,
        "status": shot.status,
        "likeness": _rounded(shot.likeness),
        "by_each": [_rounded(value) for value in shot.by_each],
        "stranger": _rounded(shot.stranger),
        "truth": _rounded(shot.truth),
        "copy_paste": _rounded(shot.copy_paste),
        "prompt_score": _rounded(shot.prompt_score),
        "faces": shot.faces,
        "pose": vars(shot.pose) if shot.pose is not None else None,
        "turned": _rounded(shot.turned),
        "moved": _rounded(shot.moved),
        "disruption": _rounded(shot.disruption),
        "seconds": _rounded(shot.seconds),
        "error": shot.error,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def as_table(report: Report) -> str:
    """For the terminal: likeness of each prompt, the means, then every measure there is, and what
    each of several recognisers says.
    """
    width = max(len("likeness"), *(len(trial.name) for trial in report.trials))
    head = "".join(f"{RUNS[run]:>12}" for run in report.runs)
    lines = [f"{'likeness':<{width}}  {head}{'moved':>9}"]
    for trial in [*report.trials, None]:
        name = trial.name if trial is not None else "mean"
        cells = ""
        for run in report.runs:
            cells += f"{number(report.mean_likeness(run, trial)):>12}"
        moved = number(report.mean_of(lambda shot: shot.moved, PERSON, trial), 1)
        lines.append(f"{name:<{width}}  {cells}{moved:>9}")
    lines.append("")
    told = []
    for name, measure in MEASURES.items():
        value = measure.of(report)
        if value is not None:
            told.append((name, number(value, measure.digits), measure.text))
    if len(report.judges.recognizers) > 1:
        told += by_recognizers(report)
    widest = max((len(name) for name, _, _ in told), default=0)
    for name, value_text, text in told:
        lines.append(f"{name:<{widest}}  {value_text:>8}  {text}")
    return "\n".join(lines)
