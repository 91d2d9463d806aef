"""A validation that a request asks for: its prompts and seeds as jobs of the queue, then the report
of the command, by the same code. Imports no torch.

Pictures go from their jobs into the validation's own folder, which has the report in the end; the
jobs are forgotten. What a server leaves when it ends, the next one goes on with.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pulid_extract.shared.embedding_file import read_embedding
from pulid_extract.shared.writing import make_folder, write_atomically
from pulid_generate.assembly.progress import Progress
from pulid_generate.errors import OutputError, PulidError, RequestError
from pulid_generate.pictures.score_lines import Judges, Score
from pulid_generate.pictures.scorer import Scorer
from pulid_generate.server.failures import RefusedError, naming_files_of, without_folder
from pulid_generate.server.intake.submission import Submission
from pulid_generate.server.intake.uploads import Body
from pulid_generate.server.intake.validation_fields import (
    INSTEAD,
    NOT_HERE,
    read_count,
    read_number,
    read_seed,
    read_trials,
    write_photographs,
)
from pulid_generate.server.intake.validation_records import (
    ShotResult,
    TrialRun,
    ValidationRecord,
    read_validation,
    write_validation,
)
from pulid_generate.server.settings import FORGET_SECONDS
from pulid_generate.server.work.jobs import JobRecord
from pulid_generate.server.work.queue import VALIDATION, JobQueue
from pulid_generate.validation.comparing import compared_report, open_judges
from pulid_generate.validation.formats import as_dict
from pulid_generate.validation.prompts import Trial
from pulid_generate.validation.report import (
    PERSON,
    WITHOUT,
    Report,
    Shot,
    ValidatedIdentity,
)
from pulid_generate.validation.writing import JSON, PAGE, write_report

# as a report says how it would be asked for again
COMMAND = "POST /v1/validations"
# why a picture is not there whose job is gone
LOST = "its job was lost when the server ended"
# that may be in work at once, of all visitors
AT_ONCE = 4
# seconds between two looks at a job
LOOK = 0.1


class _Stopping(Exception):
    """The server ends; the validation goes on with the next one."""


class Validations:
    """All validations of a server."""

    def __init__(self, submission: Submission, queue: JobQueue, models_dir: str | None):
        """models_dir: where the face networks are."""
        self.submission, self.queue, self.models_dir = submission, queue, models_dir
        self._records: dict[str, ValidationRecord] = {}
        self._threads: list[threading.Thread] = []

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
        trials, seeds = read_trials(own.get("prompts")), read_count(own.get("seeds"))
        usual = self.submission.judge.flags.pulid_id_weight
        weight = read_number(options.get("pulid_id_weight"), "pulid_id_weight", usual)
        if weight == 0:
            raise RequestError("pulid_id_weight: 0 is what it is compared with; send another")
        options = dict(options) | {"seed": read_seed(options.get("seed"))}
        name = self.submission.new_name()
        folder = self.submission.visitors.folder_of(visitor) / f"{VALIDATION}{name}"
        jobs: list[JobRecord] = []
        try:
            with naming_files_of(folder):
                make_folder(folder, mode=0o700)
                photographs = write_photographs(own, body, folder)
                runs = []
                for trial in trials:
                    for run in (PERSON, WITHOUT):
                        jobs.append(self._job(options, trial, run, seeds, body, visitor))
                        planned = list(range(options["seed"], options["seed"] + seeds))
                        runs.append(TrialRun(jobs[-1].id, trial, run, planned))
                first = jobs[0]
                embedding = first.files / str(first.asked["pulid_id_embedding"])
                sha256 = read_embedding(embedding).sha256
                identity = ValidatedIdentity(embedding.name, sha256, weight)
                record = ValidationRecord(name, folder, visitor, identity, photographs, runs)
                # before its jobs: one that is lost leaves none behind
                write_validation(record)
            for job in jobs:
                self.queue.add(job)
        except PulidError:
            for job in jobs:
                self.queue.delete(job)
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._records[name] = record
        self._start(record)
        return record

    def _start(self, record: ValidationRecord) -> None:
        thread = threading.Thread(target=self._run, args=(record,), daemon=True)
        self._threads = [other for other in self._threads if other.is_alive()]
        self._threads.append(thread)
        thread.start()

    def resume(self, folder: Path) -> tuple[int, int]:
        """Take up the validations of an earlier server, after its jobs: how many go on, and how
        many records cannot be read.
        """
        waiting, lost = 0, 0
        for path in sorted(folder.glob(f"*/{VALIDATION}*/")):
            record = read_validation(path)
            if record is None or (record.state == "done" and not _has_report(record)):
                shutil.rmtree(path, ignore_errors=True)
                lost += 1
                continue
            self._records[record.id] = record
            if record.is_finished:
                record.finished_at = time.time()
            else:
                waiting += 1
                self._start(record)
        return waiting, lost

    def stop(self, seconds: float) -> None:
        """Once the queue is closed and nothing is in work: let pictures that are done be put where
        they belong, so long at most.
        """
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def jobs_in_work(self) -> set[str]:
        """Names of jobs whose pictures a validation still waits for."""
        names = set()
        for record in list(self._records.values()):
            if not record.is_finished:
                names |= {run.job for run in record.runs if run.results is None}
        return names

    def _job(
        self,
        options: Mapping[str, Any],
        trial: Trial,
        run: str,
        seeds: int,
        body: Body,
        visitor: str | None,
    ) -> JobRecord:
        """Of a prompt, with all its seeds."""
        asked = dict(options) | {"prompt": trial.text, "batch_count": seeds}
        if run == WITHOUT:
            asked["pulid_id_weight"] = 0.0
        # each job takes the files of the request anew
        return self.submission.job(asked, Body({}, dict(body.files)), visitor)

    # ------------------------------------------------------------------------------ after that

    def _run(self, record: ValidationRecord) -> None:
        """Wait for the pictures, then make the report."""
        try:
            self._make(record)
        except _Stopping:
            return
        except PulidError as error:
            told = without_folder(str(error), record.folder)
            record.error = self.submission.judge.without_folders(told)
            record.state = "failed"
        # a bug: the validation ends, and says so
        except Exception as error:
            record.error = f"the server made a mistake ({type(error).__name__})"
            record.state = "failed"
        for run in record.runs:
            if (job := self.queue.get(run.job)) is not None:
                self.queue.delete(job)
        if record.is_cancelled:
            record.state = "cancelled"
            shutil.rmtree(record.folder, ignore_errors=True)
        else:
            # a disk that is full takes no record; it has ended all the same
            with contextlib.suppress(OutputError):
                write_validation(record)
        record.finished_at = time.time()

    def _make(self, record: ValidationRecord) -> None:
        """Raises PulidError, _Stopping."""
        scorer = Scorer(
            references=record.paths("reference"),
            truths=record.paths("truth"),
            strangers=record.paths("stranger"),
            models_dir=self.models_dir,
        )
        # first: a photograph without a face shall cost no drawing
        opened = open_judges(scorer, False, lambda line: None)
        shots: list[Shot] = []
        for run in record.runs:
            if run.results is None:
                self._fetch(record, run)
            shots += run.shots()
        if not record.is_cancelled:
            record.state = "comparing"
            report = _report(record, opened, shots)
            record.measures = as_dict(report)["measures"]
            record.state = "done"

    def _fetch(self, record: ValidationRecord, run: TrialRun) -> None:
        """Wait for a job, and move its pictures here. Raises OutputError, _Stopping."""
        job = self.queue.get(run.job)
        if job is None:
            run.results = [ShotResult(error=LOST)] * len(run.seeds)
            return
        while not job.is_finished:
            if record.is_cancelled:
                self.queue.cancel(job)
            elif self.queue.is_closed and job.state == "queued":
                raise _Stopping
            time.sleep(LOOK)
        results = []
        for place, seed in enumerate(run.seeds):
            if place >= len(job.pictures):
                results.append(ShotResult(error=job.error or job.state))
                continue
            picture = job.pictures[place]
            path = record.folder / run.output(seed)
            make_folder(path.parent, mode=0o700)
            data = (job.folder / picture.name).read_bytes()
            write_atomically(path, data, mode=0o600)
            results.append(ShotResult(picture.sha256, picture.seconds))
        run.results = results
        if not record.is_cancelled:
            write_validation(record)
        self.queue.delete(job)

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

    def forget_all_finished(self) -> None:
        """When the server ends and nothing is kept: those that have ended."""
        for record in list(self._records.values()):
            if record.is_finished:
                self.forget(record)


def _report(
    record: ValidationRecord,
    opened: tuple[Scorer, Judges, list[Score], str | None],
    shots: list[Shot],
) -> Report:
    """Compare the pictures and write the report. opened: as `open_judges` gives it. Raises
    PulidError.
    """
    scorer, judges, own_scores, unjudged = opened
    if unjudged is not None:
        unjudged = without_folder(unjudged, record.folder)
    report = compared_report(
        shots,
        record.folder,
        (scorer, judges, own_scores, unjudged),
        Progress(quiet=True),
        command=COMMAND,
        identity=record.identity,
    )
    write_report(report, record.folder, scorer, lambda line: None)
    return report


def _has_report(record: ValidationRecord) -> bool:
    return all(path.is_file() for path in report_files(record))


def report_files(record: ValidationRecord) -> tuple[Path, Path]:
    """(the page, the JSON) of a finished one."""
    return record.folder / PAGE, record.folder / JSON
