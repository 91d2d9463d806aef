"""A report as JSON, and as a table for the terminal. docs/validation.md is the schema. Imports no
torch.
"""

from __future__ import annotations

from typing import Any

from pulid_generate.validation.notes import notes_of
from pulid_generate.validation.prompts import Trial
from pulid_generate.validation.report import (
    PERSON,
    RUNS,
    Report,
    Shot,
    ValidatedIdentity,
    mean,
    number,
)

VERSION = 1
THRESHOLDS = tuple(round(step * 0.05, 2) for step in range(21))


def as_dict(report: Report) -> dict[str, Any]:
    """What report.json holds."""
    recognizer = report.recognizer
    return {
        "version": VERSION,
        "tool": report.tool,
        "passed": report.passed,
        "min_similarity": report.minimum,
        "similarity": _rounded(report.similarity),
        "closer_than_weight_0": {"pairs": len(report.pairs()), "closer": report.closer()},
        "identity": _identity(report.identity),
        "references": [
            {
                "name": picture.name,
                "sha256": picture.sha256,
                "cosine": picture.cosine,
                "stranger": picture.stranger,
            }
            for picture in report.references
        ],
        "strangers": [
            {"name": picture.name, "sha256": picture.sha256} for picture in report.strangers
        ],
        "recognizer": {
            "name": recognizer.name,
            "sha256": recognizer.sha256,
            "own": recognizer.own,
        },
        "settings": dict(report.settings),
        "notes": notes_of(report),
        "runs": {run: _summary(report, run) for run in report.runs},
        "thresholds": list(THRESHOLDS),
        "share_above": {run: _shares(report, run) for run in report.runs},
        "prompts": [_prompt(report, trial) for trial in report.trials],
        "pictures": [_picture(shot) for shot in report.shots],
    }


def _identity(identity: ValidatedIdentity) -> dict[str, Any]:
    facts: dict[str, Any] = {"sha256": identity.sha256, "weight": identity.weight}
    if identity.stranger_sha256 is not None:
        facts["stranger_sha256"] = identity.stranger_sha256
    return facts


def _summary(report: Report, run: str) -> dict[str, Any]:
    shots = report.shots_of(run)
    cosines = [shot.cosine for shot in shots if shot.cosine is not None]
    return {
        "pictures": len(shots),
        "with_face": len(cosines),
        "without_face": report.faceless(run),
        "failed": sum(shot.status in ("failed", "unreadable") for shot in shots),
        "similarity": _rounded(report.mean_cosine(run)),
        "of_faces": _rounded(mean(cosines)),
        "lowest": _rounded(min(cosines, default=None)),
        "highest": _rounded(max(cosines, default=None)),
        "to_stranger": _rounded(report.mean_stranger(run)),
        "moved": _rounded(report.mean_moved(run)),
    }


def _shares(report: Report, run: str) -> list[float | None]:
    return [_rounded(report.share_above(run, threshold)) for threshold in THRESHOLDS]


def _prompt(report: Report, trial: Trial) -> dict[str, Any]:
    return {
        "name": trial.name,
        "aspect": trial.aspect,
        "prompt": trial.text,
        "similarity": {run: _rounded(report.mean_cosine(run, trial)) for run in report.runs},
        "moved": _rounded(report.mean_moved(PERSON, trial)),
    }


def _picture(shot: Shot) -> dict[str, Any]:
    return {
        "prompt": shot.trial.name,
        "seed": shot.seed,
        "run": shot.run,
        "output": shot.output,
        "sha256": shot.sha256,
        "status": shot.status,
        "cosine": _rounded(shot.cosine),
        "stranger": _rounded(shot.stranger),
        "faces": shot.faces,
        "moved": _rounded(shot.moved),
        "error": shot.error,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def as_table(report: Report) -> str:
    """For the terminal: a line for each prompt, then the means."""
    width = max(len("prompt"), *(len(trial.name) for trial in report.trials))
    head = "".join(f"{RUNS[run]:>12}" for run in report.runs)
    lines = [f"{'prompt':<{width}}  {head}{'moved':>9}"]
    for trial in [*report.trials, None]:
        name = trial.name if trial is not None else "mean"
        cells = ""
        for run in report.runs:
            cells += f"{number(report.mean_cosine(run, trial)):>12}"
        moved = number(report.mean_moved(PERSON, trial), 1)
        lines.append(f"{name:<{width}}  {cells}{moved:>9}")
    return "\n".join(lines)
