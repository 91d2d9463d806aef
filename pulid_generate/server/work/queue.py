"""The jobs of the server: a queue with a bound, those in work, and those that are finished.

Jobs are begun in the order in which they came. Knows no model.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path

from pulid_generate.errors import OutputError, PulidError
from pulid_generate.server.failures import RefusedError, naming_files_of
from pulid_generate.server.settings import FORGET_SECONDS, MAX_FINISHED
from pulid_generate.server.work.jobs import (
    RECORD,
    JobRecord,
    State,
    delete_job,
    forget_files,
    read_record,
    write_record,
)

# folders beside those of jobs: a session's identities, and portraits while they are read
IDENTITIES, PORTRAITS = "identities", "portraits-"
# and what a validation's folder begins with
VALIDATION = "validation-"


class JobQueue:
    """Safe between threads."""

    def __init__(self, limit: int, seconds: Callable[[], float] = lambda: 30.0):
        """limit: jobs that may wait. seconds: that a job takes, about, for who is to come again."""
        self.limit, self.seconds = limit, seconds
        self.is_closed = False
        self._jobs: dict[str, JobRecord] = {}
        self._waiting: deque[JobRecord] = deque()
        self._changed = threading.Condition()
        # those in work, the first one taken first
        self.working: list[JobRecord] = []
        # state -> how many jobs have ended so
        self.ended: dict[State, int] = {"done": 0, "failed": 0, "cancelled": 0}

    def __len__(self) -> int:
        return len(self._waiting)

    def check_room(self) -> None:
        """Raise RefusedError if no further job is taken, before any work is put into it."""
        if self.is_closed:
            raise RefusedError(
                503, "the server is stopping; try again later", {"Retry-After": "30"}
            )
        if len(self._waiting) >= self.limit:
            wait = str(max(1, round(self.seconds())))
            raise RefusedError(
                429,
                f"{len(self._waiting)} jobs are waiting, --max-queue takes no more; "
                f"try again in {wait} seconds",
                {"Retry-After": wait},
            )

    def add(self, job: JobRecord) -> None:
        """Let a job wait for its turn; its record is on the disk from now on. Raises RefusedError
        and OutputError, and then nothing is left of it.
        """
        try:
            with self._changed, naming_files_of(job.folder):
                self.check_room()
                write_record(job)
                self._put(job)
        except PulidError:
            delete_job(job)
            raise

    def _put(self, job: JobRecord) -> None:
        self._jobs[job.id] = job
        self._waiting.append(job)
        self._changed.notify_all()

    def resume(self, folder: Path) -> tuple[int, int]:
        """Take up the jobs of an earlier server in `folder`: how many wait again, and how many
        records cannot be read.
        """
        found, lost = [], 0
        for path in sorted(folder.glob("*/*/")):
            if path.name == IDENTITIES:
                continue
            if path.name.startswith(PORTRAITS):
                # of a request that was killed
                shutil.rmtree(path, ignore_errors=True)
                continue
            if path.name.startswith(VALIDATION):
                continue
            job = read_record(path)
            if job is None:
                lost += 1
            else:
                found.append(job)
        found.sort(key=lambda job: job.created)
        waiting = 0
        with self._changed:
            for job in found:
                if job.is_finished:
                    self._jobs[job.id] = job
                else:
                    self._put(job)
                    waiting += 1
        return waiting, lost

    def get(self, name: str) -> JobRecord | None:
        return self._jobs.get(name)

    def of_visitor(self, visitor: str) -> list[JobRecord]:
        """Everything of one visitor, the newest first."""
        with self._changed:
            found = [job for job in self._jobs.values() if job.visitor == visitor]
        return sorted(found, key=lambda job: -job.created)

    def place(self, job: JobRecord) -> int | None:
        """How many are drawn before it; None for a job that does not wait."""
        with self._changed:
            if job.state != "queued" or job not in self._waiting:
                return None
            return self._waiting.index(job) + len(self.working)

    # --------------------------------------------------------------------------- the device's side

    def take(self, seconds: float | None) -> JobRecord | None:
        """The next job, in work from now on; None if none comes in time, or no more do."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self.is_closed, seconds)
            if self.is_closed or not self._waiting:
                return None
            job = self._waiting.popleft()
            job.state = "drawing"
            self.working.append(job)
        self._announce(job)
        return job

    def finish(self, job: JobRecord, state: State, error: str | None = None) -> None:
        """A job has ended: its record says so, and what came with it goes."""
        with self._changed:
            job.state, job.error = state, error
            job.finished_at = time.time()
            job.preview = None
            self.ended[state] += 1
            if job in self.working:
                self.working.remove(job)
            # of one that was deleted while it was in work nothing comes back
            if job.id in self._jobs:
                self._save(job)
        forget_files(job)
        self._announce(job)

    def put_back(self, job: JobRecord) -> None:
        """A job that was begun is the next one, or the first one of the server's next start. One
        that was cancelled meanwhile has ended.
        """
        with self._changed:
            if job.is_cancelled:
                self.finish(job, "cancelled")
                return
            job.state, job.step, job.preview = "queued", (0, 0), None
            self.working.remove(job)
            self._waiting.appendleft(job)
            self._changed.notify_all()
        job.announce_turn()

    def _save(self, job: JobRecord) -> None:
        """A disk that is full takes no record; the job has ended all the same."""
        try:
            write_record(job)
        except OutputError:
            if job.state == "cancelled":
                # or the server's next start would draw it; and the old record leaves room
                (job.folder / RECORD).unlink(missing_ok=True)
                with contextlib.suppress(OutputError):
                    write_record(job)

    def _announce(self, job: JobRecord) -> None:
        job.announce_turn()
        with self._changed:
            waiting = list(self._waiting)
        for other in waiting:
            other.changes.announce()

    # --------------------------------------------------------------------------- the requests' side

    def cancel(self, job: JobRecord) -> None:
        """End it: now if it waits, before the next step if it is in work."""
        with self._changed:
            job.is_cancelled = True
            waits = job in self._waiting
            if waits:
                self._waiting.remove(job)
        if waits:
            self.finish(job, "cancelled")
        job.announce_turn()

    def delete(self, job: JobRecord) -> None:
        """End it, and forget everything about it."""
        self.cancel(job)
        with self._changed:
            self._jobs.pop(job.id, None)
        delete_job(job)

    def close(self) -> list[JobRecord]:
        """Take no more jobs, and give none out: those that wait now."""
        with self._changed:
            self.is_closed = True
            waiting = list(self._waiting)
            self._changed.notify_all()
        for job in waiting:
            job.announce_turn()
        return waiting

    def forget_old(self, now: float | None = None) -> None:
        """Finished jobs without a session whose time is over, or that are too many."""
        now = time.time() if now is None else now
        with self._changed:
            finished = [job for job in self._jobs.values() if job.is_finished and not job.visitor]
        finished.sort(key=lambda job: job.finished_at or 0.0, reverse=True)
        for place, job in enumerate(finished):
            old = now - (job.finished_at or 0.0) > FORGET_SECONDS
            if old or place >= MAX_FINISHED:
                self.delete(job)

    def forget_all_finished(self, wanted: Collection[str] = ()) -> None:
        """What is left when the server ends and pictures are not kept. wanted: names of jobs whose
        pictures somebody waits for after a restart.
        """
        with self._changed:
            found = [job for job in self._jobs.values() if job.id not in wanted]
        finished = [job for job in found if job.is_finished]
        for job in finished:
            self.delete(job)
