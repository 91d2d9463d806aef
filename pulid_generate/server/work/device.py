"""A thread that draws: takes jobs from the queue, one picture at a time, and writes what comes of
them. Knows no request, and not whether the picture is made in this process.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable

from pulid_extract.shared.cli import console
from pulid_extract.shared.cluster.actor import UnfitWorkerError
from pulid_extract.shared.writing import write_atomically
from pulid_generate.errors import PulidError
from pulid_generate.server.failures import mistake_of, without_folder
from pulid_generate.server.work.drawing import Cancelled, Drawer, LostPictureError
from pulid_generate.server.work.jobs import JobRecord, PictureRecord
from pulid_generate.server.work.judging import Judge, JudgedJob
from pulid_generate.server.work.metrics import Metrics
from pulid_generate.server.work.queue import JobQueue

# seconds between two looks for what is old
TIDYING = 60.0
# seconds between two steps that whoever watches is told of: more often nobody sees it, and waking
# the event loop for each took one per cent of a small picture's time
PAUSE = 0.1
# workers that one job may kill
MAX_DEATHS = 2


class DeviceThread(threading.Thread):
    """idle_seconds: after so long without a job the models go; 0 keeps them. tidy: called now and
    then.
    """

    def __init__(
        self,
        judge: Judge,
        drawer: Drawer,
        queue: JobQueue,
        metrics: Metrics,
        idle_seconds: float,
        tidy: Callable[[], None] = lambda: None,
    ):
        super().__init__(name="device", daemon=True)
        self.judge, self.drawer = judge, drawer
        self.queue, self.metrics = queue, metrics
        self.idle_seconds, self.tidy = idle_seconds, tidy
        # whether the picture in work is the last one
        self.is_stopping = False
        # whether it takes jobs
        self.is_ready = False
        # why it does not any more: a sentence
        self.problem: str | None = None
        # called once there is a problem
        self.on_end: Callable[[], None] = lambda: None

    def run(self) -> None:
        try:
            self.drawer.open()
            self.is_ready = True
            self._take_jobs()
        except UnfitWorkerError as error:
            self.problem = str(error)
        # a bug: nobody shall wait for this thread
        except Exception as error:
            _say_bug(error, "this device draws nothing any more")
            self.problem = f"the server made a mistake ({type(error).__name__})"
        finally:
            self.is_ready = False
            try:
                self.drawer.close()
            finally:
                if self.problem is not None:
                    self.on_end()

    def _take_jobs(self) -> None:
        """Until the queue is closed. Raises UnfitWorkerError."""
        used = time.monotonic()
        patience = min(TIDYING, self.idle_seconds or TIDYING, self.drawer.pulse)
        while not self.queue.is_closed:
            job = self.queue.take(patience)
            if job is not None:
                self._work(job)
                used = time.monotonic()
            elif not self.queue.is_closed and not self.drawer.is_there():
                self._open_again()
            elif self.idle_seconds and time.monotonic() - used >= self.idle_seconds:
                self.drawer.release()
            tidy_up(self.tidy)

    def _open_again(self) -> None:
        """What draws has died while there was nothing to do. Raises UnfitWorkerError."""
        self.is_ready = False
        console.complain(f"{self.drawer.name} died while it had nothing to do; it is started anew")
        self.drawer.open()
        self.is_ready = True

    def _work(self, record: JobRecord) -> None:
        """Raises UnfitWorkerError."""
        try:
            judged = self.judge.judge(record)
            for index in range(len(record.pictures), len(judged.jobs)):
                if self.is_stopping:
                    self.queue.put_back(record)
                    return
                self._draw(record, judged, index)
        except Cancelled:
            self.queue.finish(record, "cancelled")
        except LostPictureError as error:
            self._lost(record, error)
        except UnfitWorkerError:
            # the job is not to blame
            self.queue.put_back(record)
            raise
        except PulidError as error:
            told = without_folder(str(error), record.files)
            told = self.judge.without_folders(without_folder(told, record.folder))
            self.queue.finish(record, "failed", told)
        # a bug: the job ends, the server does not, and the log has no word of what was asked for
        except Exception as error:
            _say_bug(error, "the job has failed")
            self.queue.finish(
                record, "failed", f"the server made a mistake ({type(error).__name__}); see its log"
            )
        else:
            self.queue.finish(record, "done")

    def _lost(self, record: JobRecord, error: LostPictureError) -> None:
        """Its worker has died: it is tried once more."""
        record.deaths += 1
        if record.is_cancelled:
            self.queue.finish(record, "cancelled")
        elif record.deaths < MAX_DEATHS:
            console.complain(f"{error}; job {record.id} will be done again")
            self.queue.put_back(record)
        else:
            console.complain(f"{error}; job {record.id} has failed")
            self.queue.finish(
                record,
                "failed",
                f"workers died {record.deaths} times with it; see the server's log",
            )

    def _draw(self, record: JobRecord, judged: JudgedJob, index: int) -> None:
        started = time.monotonic()
        watch = _JobWatch(record, self.metrics, self.judge.without_folders)
        data = self.drawer.draw(judged, index, watch)
        name = f"{index}.{record.output_format}"
        write_atomically(record.folder / name, data, mode=0o600)
        seconds = time.monotonic() - started
        sha256 = hashlib.sha256(data).hexdigest()
        seed = judged.jobs[index].seed
        record.pictures.append(PictureRecord(name, sha256, seed, seconds))
        record.preview = None
        self.metrics.pictures.inc()
        self.metrics.seconds.observe(seconds)
        # of the last one hears who hears of the end
        if len(record.pictures) < len(judged.jobs):
            record.changes.announce()


class _JobWatch:
    """What hears of a job's picture; see `drawing.Watch`."""

    def __init__(self, record: JobRecord, metrics: Metrics, shorten: Callable[[str], str] = str):
        """shorten: a line without the folders of the server's own files."""
        self.record, self.metrics, self.shorten = record, metrics, shorten
        # when a step was last told; that it is in work has been told just now
        self._told = time.monotonic()

    @property
    def is_cancelled(self) -> bool:
        return self.record.is_cancelled

    @property
    def is_watched(self) -> bool:
        return self.record.changes.is_watched

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._told >= PAUSE

    def step(self, done: int, total: int, count: int = 1) -> None:
        if self.record.is_cancelled:
            raise Cancelled
        self.record.step = (done, total)
        self.metrics.steps.inc(count)
        if done == total or self.is_due:
            self._told = time.monotonic()
            self.record.changes.announce()

    def show(self, preview: bytes) -> None:
        self.record.preview = preview

    def note(self, text: str) -> None:
        # a file in the job's folder is called as the request called it
        line = self.shorten(without_folder(text, self.record.files))
        if line not in self.record.notes:
            self.record.notes = [*self.record.notes, line]


def tidy_up(tidy: Callable[[], None]) -> None:
    """A disk that fails must not end the thread that everybody waits for."""
    try:
        tidy()
    except Exception as error:
        _say_bug(error, "nothing was tidied")


def _say_bug(error: Exception, what: str) -> None:
    """Where it is, and no word of what was asked for."""
    console.complain(f"bug: {mistake_of(error)}; {what}")
