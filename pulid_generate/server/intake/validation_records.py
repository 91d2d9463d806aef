"""One validation: what it is of, how far it is, and its record on the disk, from which it goes on
after a restart. Imports no torch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pulid_extract.shared.json_text import read_object
from pulid_extract.shared.records import check_types
from pulid_extract.shared.writing import make_folder, write_atomically
from pulid_generate.validation.prompts import Trial
from pulid_generate.validation.report import Shot, ValidatedIdentity

State = Literal["drawing", "comparing", "done", "failed", "cancelled"]
RECORD = "validation.json"
# kinds of photographs, each in a folder of its own
PHOTOGRAPHS = ("reference", "truth", "stranger")

# what the parts of a record on the disk hold: name -> type of its value
TYPES: dict[str, Any] = {
    "id": str,
    "visitor": str | None,
    "identity": dict,
    "photographs": dict,
    "runs": list,
    "state": str,
    "error": str | None,
    "measures": dict | None,
    "created": int | float,
}
IDENTITY_TYPES: dict[str, Any] = {"name": str, "sha256": str, "weight": int | float}
RUN_TYPES: dict[str, Any] = {
    "job": str,
    "trial": dict,
    "run": str,
    "seeds": list,
    "results": list | None,
}
TRIAL_TYPES: dict[str, Any] = {"name": str, "aspect": str, "text": str}
RESULT_TYPES: dict[str, Any] = {
    "sha256": str | None,
    "seconds": int | float | None,
    "error": str | None,
}


@dataclass(frozen=True)
class ShotResult:
    """What came of one picture."""

    # of the file
    sha256: str | None = None
    # that it took to draw
    seconds: float | None = None
    # why it was not drawn
    error: str | None = None


@dataclass
class TrialRun:
    """The pictures of one prompt, with the person or without."""

    # the job's name
    job: str
    trial: Trial
    # a key of validation.report.RUNS
    run: str
    seeds: list[int]
    # by the seeds; None until the job has ended
    results: list[ShotResult] | None = None

    def output(self, seed: int) -> str:
        """The name of a picture in the validation's folder."""
        return f"pictures/{self.trial.name}_{seed}_{self.run}.png"

    def shots(self) -> list[Shot]:
        """Of a run that has ended."""
        shots = []
        for seed, result in zip(self.seeds, self.results or (), strict=True):
            shots.append(Shot(self.trial, seed, self.run, self.output(seed), **vars(result)))
        return shots


@dataclass
class ValidationRecord:
    """One validation. Only its own thread changes it, but for `is_cancelled`."""

    # which nobody can guess
    id: str
    # of its photographs, pictures and report
    folder: Path
    visitor: str | None
    identity: ValidatedIdentity
    # kind -> names of files in the folder of that kind
    photographs: Mapping[str, list[str]]
    runs: list[TrialRun]
    state: State = "drawing"
    error: str | None = None
    # of the report
    measures: dict[str, Any] | None = None
    created: float = field(default_factory=time.time)
    is_cancelled: bool = False
    finished_at: float | None = None

    @property
    def is_finished(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    @property
    def drawn(self) -> int:
        """Pictures that are there."""
        found = 0
        for run in self.runs:
            found += sum(result.sha256 is not None for result in run.results or ())
        return found

    def paths(self, kind: str) -> tuple[str, ...]:
        """Of its photographs of a kind."""
        return tuple(str(self.folder / kind / name) for name in self.photographs[kind])

    def as_dict(self) -> dict[str, Any]:
        """As requests are told."""
        has_report = self.state == "done"
        return {
            "id": self.id,
            "state": self.state,
            "drawn": self.drawn,
            "count": sum(len(run.seeds) for run in self.runs),
            "error": self.error,
            "report": f"/v1/validations/{self.id}/report" if has_report else None,
            "measures": self.measures,
        }


def write_validation(record: ValidationRecord) -> None:
    """The journal's entry, whole or not at all, for its user alone. Raises OutputError."""
    identity = record.identity
    told = {
        "id": record.id,
        "visitor": record.visitor,
        "identity": {name: getattr(identity, name) for name in IDENTITY_TYPES},
        "photographs": record.photographs,
        "runs": [asdict(run) for run in record.runs],
        "state": record.state,
        "error": record.error,
        "measures": record.measures,
        "created": record.created,
    }
    make_folder(record.folder, mode=0o700)
    write_atomically(record.folder / RECORD, json.dumps(told).encode(), mode=0o600)


def read_validation(folder: Path) -> ValidationRecord | None:
    """What `write_validation` wrote; None for a folder that holds none."""
    try:
        told = read_object((folder / RECORD).read_bytes())
        check_types(told, TYPES)
        check_types(told["identity"], IDENTITY_TYPES)
        told["identity"] = ValidatedIdentity(**told["identity"])
        told["runs"] = [_run_of(run) for run in told["runs"]]
        for kind in PHOTOGRAPHS:
            for name in told["photographs"][kind]:
                _check_plain(name)
        if told["state"] not in get_args(State):
            raise ValueError("state")
        return ValidationRecord(folder=folder, **told)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _run_of(told: Any) -> TrialRun:
    """Raises TypeError."""
    check_types(told, RUN_TYPES)
    check_types(told["trial"], TRIAL_TYPES)
    # parts of a picture's name
    _check_plain(told["trial"]["name"])
    _check_plain(told["run"])
    if not all(isinstance(seed, int) for seed in told["seeds"]):
        raise TypeError("seeds")
    if told["results"] is not None:
        results = []
        for result in told["results"]:
            check_types(result, RESULT_TYPES)
            results.append(ShotResult(**result))
        if len(results) != len(told["seeds"]):
            raise TypeError("results")
        told["results"] = results
    return TrialRun(**told | {"trial": Trial(**told["trial"])})


def _check_plain(name: object) -> None:
    """Raise TypeError for what is no plain name of a file."""
    if not isinstance(name, str) or Path(name).name != name:
        raise TypeError(f"{str(name)[:40]}: not a file's name")
