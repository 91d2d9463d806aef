"""The parts of one running server, for whoever answers a request, and what nearly every answer
needs. Imports no torch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from pulid_generate.server.failures import RefusedError, not_found
from pulid_generate.server.intake.extraction import ExtractWorker
from pulid_generate.server.intake.submission import Submission
from pulid_generate.server.intake.validation import Validations
from pulid_generate.server.intake.visitors import COOKIE, Visitors
from pulid_generate.server.settings import Settings
from pulid_generate.server.work.devices import Devices
from pulid_generate.server.work.jobs import JobRecord
from pulid_generate.server.work.judging import Judge
from pulid_generate.server.work.metrics import Metrics
from pulid_generate.server.work.queue import JobQueue

Value = TypeVar("Value")
# seconds between two looks whether who waits is still there
LOOK = 1.0


@dataclass
class Server:
    """One server."""

    settings: Settings
    judge: Judge
    queue: JobQueue
    visitors: Visitors
    worker: ExtractWorker
    submission: Submission
    validations: Validations
    metrics: Metrics
    devices: Devices
    # ids of jobs that WebUI's clients wait for: all that they may interrupt
    interruptible: set[str] = field(default_factory=set)

    def tidy(self) -> None:
        """Forget sessions that are over, and old jobs of nobody."""
        for name in self.visitors.forget_old():
            self.forget_visitor(name)
        self.queue.forget_old()
        self.validations.forget_old()

    def forget_visitor(self, name: str) -> None:
        """Everything of a session: its jobs are cancelled, its pictures and identities deleted."""
        self.validations.forget_of(name)
        for job in self.queue.of_visitor(name):
            self.queue.delete(job)
        self.visitors.delete(name)


def server_of(request: Request) -> Server:
    found: Server = request.app.state.server
    return found


def visitor_of(request: Request) -> str | None:
    """The session that the request belongs to, if any."""
    return server_of(request).visitors.name(request.cookies.get(COOKIE))


def job_of(request: Request, name: str) -> JobRecord:
    """A job that who asks may see: of the same session, or of nobody's. Raises RefusedError."""
    job = server_of(request).queue.get(name)
    if job is None or job.visitor not in (None, visitor_of(request)):
        raise not_found(f"job {name[:40]}")
    return job


async def beside(work: Callable[..., Value], *values: Any) -> Value:
    """Do it in a thread, so that other requests are answered meanwhile."""
    return await run_in_threadpool(work, *values)


async def finished(request: Request, job: JobRecord) -> JobRecord:
    """The job, once it has ended. It is cancelled if nobody waits for it any more. Raises
    RefusedError if it failed, or if the server stops before its turn.
    """
    server, seen = server_of(request), 0
    try:
        while not job.is_finished:
            if server.queue.is_closed and job.state == "queued":
                # nobody would hear of it after the restart
                server.queue.delete(job)
                raise RefusedError(
                    503, "the server is stopping; send it again", {"Retry-After": "30"}
                )
            if await request.is_disconnected():
                server.queue.cancel(job)
            seen = await job.turns.after(seen, LOOK)
    except asyncio.CancelledError:
        server.queue.cancel(job)
        raise
    if job.state == "failed":
        raise RefusedError(422, job.error or "failed")
    if job.state == "cancelled":
        raise RefusedError(409, "the job was cancelled")
    return job


async def pictures_of(job: JobRecord, index: int | None = None) -> list[bytes]:
    """The files of a finished job, all or one. Raises RefusedError."""
    pictures = job.pictures if index is None else [job.pictures[index]]

    def read() -> list[bytes]:
        try:
            return [(job.folder / picture.name).read_bytes() for picture in pictures]
        except OSError:
            raise not_found("the picture") from None

    return await beside(read)
