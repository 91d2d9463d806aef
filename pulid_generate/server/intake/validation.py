"""A validation that a request asks for: its prompts and seeds as jobs of the queue, then the report
of the command, by the same code. Imports no torch.

Pictures go from their jobs into the validation's own folder, which has the report in the end; the
jobs are forgotten.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pulid_extract.shared.embedding_file import read_embedding
from pulid_extract.shared.records import number, whole
from pulid_extract.shared.writing import make_folder, write_atomically
from pulid_generate.assembly.progress import Progress
from pulid_generate.errors import PulidError, RequestError
from pulid_generate.pictures.scorer import Judges, Score, Scorer
from pulid_generate.server.failures import RefusedError, without_folder
from pulid_generate.server.intake.fields import FACE_CHOICE
from pulid_generate.server.intake.submission import Submission, any_seed
from pulid_generate.server.intake.uploads import Body, write_files
from pulid_generate.server.settings import FORGET_SECONDS, MAX_PROMPT
from pulid_generate.server.work.jobs import JobRecord
from pulid_generate.server.work.queue import VALIDATION, JobQueue
from pulid_generate.validation.comparing import (
    compare,
    known_picture,
    open_judges,
    shared_settings,
)
from pulid_generate.validation.formats import as_dict
from pulid_generate.validation.prompts import TRIALS, Trial, own_trials
from pulid_generate.validation.report import (
    PERSON,
    WITHOUT,
    Report,
    Shot,
    ValidatedIdentity,
)
from pulid_generate.validation.writing import JSON, PAGE, write_report
from pulid_generate.version import __version__

# own fields of such a request -> what they are
FIELDS = {
    "reference": "Names of files: pictures of the person, whose largest face counts.",
    "truth": "Names of files: other photographs of the person.",
    "stranger": "Names of files: pictures of somebody else.",
    "prompts": "One in each line. Default: twelve of ours.",
    "seeds": "How many seeds each prompt is drawn with, 1 to 4. The first is `seed`.",
}
PHOTOGRAPHS = ("reference", "truth", "stranger")
# what is said otherwise here -> how
INSTEAD = {
    "prompt": "prompts",
    "negative_prompt": None,
    "batch_count": "seeds",
    "identity": "pulid_id_embedding: a validation is of one person",
    "init_img": None,
    "mask": None,
}
# of a job's own fields, those that a validation has none of
NOT_HERE = (*FACE_CHOICE, "portraits", "output_format")
MAX_TRIALS, MAX_SEEDS = 24, 4
# that may be in work at once, of all visitors
AT_ONCE = 4
# seconds between two looks at a job
LOOK = 0.1

State = Literal["drawing", "comparing", "done", "failed", "cancelled"]


@dataclass
class ValidationRecord:
    """One validation. Only its own thread changes it, but for `is_cancelled`."""

    # which nobody can guess
    id: str
    # of its photographs, pictures and report
    folder: Path
    visitor: str | None
    identity: ValidatedIdentity
    scorer: Scorer
    # of each run of each prompt, its shots by their seeds
    jobs: list[tuple[JobRecord, list[Shot]]]
    # as it would be asked for again
    command: str
    state: State = "drawing"
    error: str | None = None
    # pictures that are there
    drawn: int = 0
    report: Report | None = None
    is_cancelled: bool = False
    created: float = field(default_factory=time.time)
    finished_at: float | None = None

    @property
    def is_finished(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    def as_dict(self) -> dict[str, Any]:
        """As requests are told."""
        return {
            "id": self.id,
            "state": self.state,
            "drawn": self.drawn,
            "count": sum(len(shots) for _, shots in self.jobs),
            "error": self.error,
            "report": f"/v1/validations/{self.id}/report" if self.report else None,
            "measures": as_dict(self.report)["measures"] if self.report else None,
        }


class Validations:
    """All validations of a server."""

    def __init__(self, submission: Submission, queue: JobQueue, models_dir: str | None):
        """models_dir: where the face networks are."""
        self.submission, self.queue, self.models_dir = submission, queue, models_dir
        self._records: dict[str, ValidationRecord] = {}

    def get(self, name: str) -> ValidationRecord | None:
        return self._records.get(name)

    def of_visitor(self, visitor: str) -> list[ValidationRecord]:
        """The newest first."""
        found = [one for one in self._records.values() if one.visitor == visitor]
        return sorted(found, key=lambda one: -one.created)

    def start(
        self, options: Mapping[str, Any], own: Mapping[str, Any], body: Body, visitor: str | None
    ) -> ValidationRecord:
        """Check all of it, and let its pictures wait for their turns. Raises PulidError."""
        busy = sum(not one.is_finished for one in self._records.values())
        if busy >= AT_ONCE:
            raise RefusedError(
                429, f"{busy} validations are in work; try again later", {"Retry-After": "60"}
            )
        for name, instead in INSTEAD.items():
            if options.get(name) is not None:
                advice = f"; give {instead}" if instead else ""
                raise RequestError(f"{name}: is not for a validation{advice}")
        for name in NOT_HERE:
            if own.get(name) is not None:
                raise RequestError(f"{name}: is not for a validation")
        if options.get("pulid_id_embedding") is None:
            raise RequestError("pulid_id_embedding: missing; whose pictures are to be tried?")
        trials, seeds = _trials(own.get("prompts")), _count(own.get("seeds"))
        usual = self.submission.drawer.flags.pulid_id_weight
        weight = _number(options.get("pulid_id_weight"), "pulid_id_weight", usual)
        if weight == 0:
            raise RequestError("pulid_id_weight: 0 is what it is compared with; send another")
        options = dict(options) | {"seed": _seed(options.get("seed"))}
        name = self.submission.new_name()
        folder = self.submission.visitors.folder_of(visitor) / f"{VALIDATION}{name}"
        jobs: list[tuple[JobRecord, list[Shot]]] = []
        try:
            make_folder(folder, mode=0o700)
            photographs = _photographs(own, body, folder)
            for trial in trials:
                for run in (PERSON, WITHOUT):
                    jobs.append(self._job(options, trial, run, seeds, body, visitor))
            first = jobs[0][0]
            embedding = first.files / str(first.asked["pulid_id_embedding"])
            identity = ValidatedIdentity(embedding.name, read_embedding(embedding).sha256, weight)
            scorer = Scorer(
                references=photographs["reference"],
                truths=photographs["truth"],
                strangers=photographs["stranger"],
                models_dir=self.models_dir,
            )
            for job, _ in jobs:
                self.queue.add(job)
        except PulidError as error:
            for job, _ in jobs:
                self.queue.delete(job)
            shutil.rmtree(folder, ignore_errors=True)
            error.args = (without_folder(str(error), folder),)
            raise
        record = ValidationRecord(
            name, folder, visitor, identity, scorer, jobs, "POST /v1/validations"
        )
        self._records[name] = record
        threading.Thread(target=self._run, args=(record,), daemon=True).start()
        return record

    def _job(
        self,
        options: Mapping[str, Any],
        trial: Trial,
        run: str,
        seeds: int,
        body: Body,
        visitor: str | None,
    ) -> tuple[JobRecord, list[Shot]]:
        """Of a prompt, with all its seeds."""
        asked = dict(options) | {"prompt": trial.text, "batch_count": seeds}
        if run == WITHOUT:
            asked["pulid_id_weight"] = 0.0
        # each job takes the files of the request anew
        job = self.submission.job(asked, Body({}, dict(body.files)), visitor)
        shots = []
        for seed in range(options["seed"], options["seed"] + seeds):
            shots.append(Shot(trial, seed, run, f"pictures/{trial.name}_{seed}_{run}.png"))
        return job, shots

    # ------------------------------------------------------------------------------ after that

    def _run(self, record: ValidationRecord) -> None:
        """Wait for the pictures, then make the report."""
        try:
            # first: a photograph without a face shall cost no drawing
            opened = open_judges(record.scorer, False, lambda line: None)
            shots: list[Shot] = []
            for job, planned in record.jobs:
                shots += self._drawn(record, job, planned)
            if not record.is_cancelled:
                record.state = "comparing"
                record.report = _report(record, opened, shots)
                record.state = "done"
        except PulidError as error:
            record.error = without_folder(str(error), record.folder)
            record.state = "failed"
        # a bug: the validation ends, and says so
        except Exception as error:
            record.error = f"the server made a mistake ({type(error).__name__})"
            record.state = "failed"
        finally:
            for job, _ in record.jobs:
                self.queue.delete(job)
            if record.is_cancelled:
                record.state = "cancelled"
                shutil.rmtree(record.folder, ignore_errors=True)
            record.finished_at = time.time()

    def _drawn(self, record: ValidationRecord, job: JobRecord, shots: Sequence[Shot]) -> list[Shot]:
        """The shots with their pictures, which are moved here. Raises RefusedError."""
        while not job.is_finished:
            if self.queue.is_closed:
                raise RefusedError(503, "the server is stopping; start it again")
            if record.is_cancelled:
                self.queue.cancel(job)
            time.sleep(LOOK)
        found = []
        for place, shot in enumerate(shots):
            if place >= len(job.pictures):
                found.append(replace(shot, error=job.error or job.state))
                continue
            picture = job.pictures[place]
            make_folder((record.folder / shot.output).parent, mode=0o700)
            data = (job.folder / picture.name).read_bytes()
            write_atomically(record.folder / shot.output, data, mode=0o600)
            found.append(replace(shot, sha256=picture.sha256, seconds=picture.seconds))
            record.drawn += 1
        self.queue.delete(job)
        return found

    # ------------------------------------------------------------------------------- forgetting

    def forget(self, record: ValidationRecord) -> None:
        """End it, and all of it goes."""
        record.is_cancelled = True
        self._records.pop(record.id, None)
        if record.is_finished:
            shutil.rmtree(record.folder, ignore_errors=True)

    def forget_of(self, visitor: str) -> None:
        """Those of a session."""
        for record in self.of_visitor(visitor):
            self.forget(record)

    def forget_old(self, now: float | None = None) -> None:
        """Those of nobody's session whose time is over."""
        now = time.time() if now is None else now
        for record in list(self._records.values()):
            old = now - (record.finished_at or now) > FORGET_SECONDS
            if record.visitor is None and old:
                self.forget(record)

    def forget_all(self) -> None:
        """When the server ends and nothing is kept."""
        for record in list(self._records.values()):
            self.forget(record)


def _trials(prompts: object) -> tuple[Trial, ...]:
    """Raises RequestError."""
    if prompts is None or prompts == "":
        return TRIALS
    if not isinstance(prompts, str) or len(prompts) > MAX_PROMPT:
        raise RequestError(f"prompts: expected a text of at most {MAX_PROMPT} characters")
    lines = [(number, line.strip()) for number, line in enumerate(prompts.split("\n"), 1)]
    found = own_trials([(number, line) for number, line in lines if line])
    if not 1 <= len(found) <= MAX_TRIALS:
        raise RequestError(f"prompts: {len(found)} lines; expected 1 to {MAX_TRIALS}")
    return found


def _number(value: object, name: str, otherwise: float) -> float:
    """Of JSON, or of a form's text. Raises RequestError."""
    if value is None or value == "":
        return otherwise
    try:
        return number(value)
    except (ValueError, TypeError, OverflowError):
        raise RequestError(f"{name} {str(value)[:20]!r}: expected a number") from None


def _seed(value: object) -> int:
    """The first of the seeds: one for all jobs, also where any will do. Raises RequestError."""
    try:
        seed = 1 if value is None or value == "" else whole(value)
    except ValueError:
        raise RequestError(f"seed {str(value)[:20]!r}: expected a whole number") from None
    return seed if seed >= 0 else any_seed()


def _count(seeds: object) -> int:
    """Raises RequestError."""
    try:
        count = int(str(1 if seeds is None or seeds == "" else seeds))
    except ValueError:
        count = 0
    if not 1 <= count <= MAX_SEEDS:
        raise RequestError(f"seeds {str(seeds)[:20]!r}: expected 1 to {MAX_SEEDS}")
    return count


def _photographs(own: Mapping[str, Any], body: Body, folder: Path) -> dict[str, tuple[str, ...]]:
    """kind -> the files of it, which are written. Raises RequestError, OutputError."""
    found: dict[str, tuple[str, ...]] = {}
    for kind in PHOTOGRAPHS:
        value = own.get(kind) or []
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list):
            raise RequestError(f"{kind}: expected a list of names of files")
        taken = [body.take_file(name, kind) for name in names]
        inside = folder / kind
        if taken:
            write_files({name: body.files[name] for name in taken}, inside)
        found[kind] = tuple(str(inside / name) for name in taken)
    if not found["reference"]:
        raise RequestError("reference: missing; send a photograph of the person")
    return found


def _report(
    record: ValidationRecord,
    opened: tuple[Scorer, Judges, list[Score], str | None],
    shots: list[Shot],
) -> Report:
    """Compare the pictures and write the report. opened: as `open_judges` gives it. Raises
    PulidError.
    """
    scorer, judges, own_scores, unjudged = opened
    shots = compare(shots, record.folder, scorer, own_scores, Progress(quiet=True))
    references = []
    for path, score in zip(scorer.references, own_scores, strict=True):
        references.append(known_picture(path, score))
    report = Report(
        tool=f"pulid-generate {__version__}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=record.command,
        identity=record.identity,
        references=references,
        strangers=[known_picture(path) for path in scorer.strangers],
        truths=[known_picture(path) for path in scorer.truths],
        judges=judges,
        unjudged=without_folder(unjudged, record.folder) if unjudged else None,
        settings=shared_settings(shots, record.folder),
        shots=shots,
    )
    write_report(report, record.folder, scorer, lambda line: None)
    return report


def report_files(record: ValidationRecord) -> tuple[Path, Path]:
    """(the page, the JSON) of a finished one."""
    return record.folder / PAGE, record.folder / JSON
