"""The one thread that draws: takes jobs from the queue, one picture at a time, and writes what
comes of them. Knows no request.
"""

from __future__ import annotations

import hashlib
import threading
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from pulid_extract.shared.cli import console
from pulid_extract.shared.writing import write_atomically
from pulid_generate.errors import PulidError
from pulid_generate.pictures.previews import preview_png
from pulid_generate.server.failures import without_folder
from pulid_generate.server.work.drawing import Cancelled, Drawer
from pulid_generate.server.work.jobs import FORMATS, JobRecord, PictureRecord
from pulid_generate.server.work.metrics import Metrics
from pulid_generate.server.work.queue import JobQueue

if TYPE_CHECKING:
    from torch import Tensor

    from pulid_generate.request.job import Job

# seconds between two looks for what is old
TIDYING = 60.0


class DeviceThread(threading.Thread):
    """idle_seconds: after so long without a job the models go; 0 keeps them. tidy: called now and
    then.
    """

    def __init__(
        self,
        drawer: Drawer,
        queue: JobQueue,
        metrics: Metrics,
        idle_seconds: float,
        tidy: Callable[[], None],
    ):
        super().__init__(name="device", daemon=True)
        self.drawer, self.queue, self.metrics = drawer, queue, metrics
        self.idle_seconds, self.tidy = idle_seconds, tidy
        # whether the picture in work is the last one
        self.is_stopping = False

    def run(self) -> None:
        used = time.monotonic()
        while not self.queue.is_closed:
            job = self.queue.take(
                TIDYING if self.idle_seconds == 0 else min(TIDYING, self.idle_seconds)
            )
            if job is not None:
                self._work(job)
                used = time.monotonic()
            elif self.idle_seconds and time.monotonic() - used >= self.idle_seconds:
                self.drawer.release()
            self.metrics.loaded.set(self.drawer.is_loaded)
            try:
                self.tidy()
            # a disk that fails must not end the thread that everybody waits for
            except Exception as error:
                _say_bug(error, "nothing was tidied")
        self.drawer.release()

    def _work(self, record: JobRecord) -> None:
        try:
            jobs = self.drawer.judge(record)
            for index in range(len(record.pictures), len(jobs)):
                if self.is_stopping:
                    self.queue.put_back(record)
                    return
                self._draw(record, jobs[index], index)
        except Cancelled:
            self.queue.finish(record, "cancelled")
        except PulidError as error:
            self.queue.finish(record, "failed", without_folder(str(error), record.files))
        # a bug: the job ends, the server does not, and the log has no word of what was asked for
        except Exception as error:
            _say_bug(error, "the job has failed")
            self.queue.finish(
                record, "failed", f"the server made a mistake ({type(error).__name__}); see its log"
            )
        else:
            self.queue.finish(record, "done")

    def _draw(self, record: JobRecord, job: Job, index: int) -> None:
        started = time.monotonic()

        def on_step(done: int, total: int) -> None:
            if record.is_cancelled:
                raise Cancelled
            record.step = (done, total)
            if done:
                self.metrics.steps.inc()
            record.changes.announce()

        def on_denoised(latent: Tensor) -> None:
            # for whoever looks; it costs some milliseconds
            if record.changes.is_watched:
                record.preview = preview_png(latent)

        on_step(0, job.steps)
        picture = self.drawer.draw(job, on_step, on_denoised)
        flags, _ = self.drawer.flags_of(record)
        form = FORMATS[record.output_format]
        data = picture.encode(form, metadata=not flags.disable_image_metadata)
        name = f"{index}.{record.output_format}"
        write_atomically(record.folder / name, data, mode=0o600)
        seconds = time.monotonic() - started
        sha256 = hashlib.sha256(data).hexdigest()
        record.pictures.append(PictureRecord(name, sha256, job.seed, seconds))
        record.preview = None
        self.metrics.pictures.inc()
        self.metrics.seconds.observe(seconds)
        record.changes.announce()


def _say_bug(error: Exception, what: str) -> None:
    """Where it is, and no word of what was asked for."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    console.complain(f"bug: {type(error).__name__} at {place.filename}:{place.lineno}; {what}")
