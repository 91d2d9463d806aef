"""Draws in another process, a worker of a Ray cluster, and hears meanwhile how far it is. Knows no
queue, and no Ray by itself: how a process is started is handed in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

from pulid_extract.shared.cluster.actor import ReadyReply, UnfitWorkerError
from pulid_extract.shared.cluster.dispatch import MAX_FAILED_STARTS
from pulid_extract.shared.cluster.ray_process import DeadWorkerError, Done, Heard
from pulid_generate.errors import PulidError
from pulid_generate.server.work.drawing import Cancelled, LostPictureError, Watch
from pulid_generate.server.work.judging import JudgedJob
from pulid_generate.server.work.ray_worker import (
    Cancel,
    DrawReply,
    DrawTask,
    Look,
    News,
    Release,
)


class Process(Protocol):
    """See `RayProcess`."""

    def opened(self, is_stopping: Callable[[], bool]) -> ReadyReply | None: ...
    def begin(self, task: DrawTask) -> None: ...
    def ask(self, message: Look) -> None: ...
    def tell(self, message: Cancel | Release) -> None: ...
    def event(self) -> Done | Heard | None: ...
    def check(self) -> ReadyReply | None: ...
    def kill(self) -> None: ...


class WorkerDrawer:
    """Draws in a process of the cluster; see `drawing.Drawer`."""

    def __init__(
        self,
        name: str,
        start: Callable[[], Process],
        is_stopping: Callable[[], bool],
        on_ready: Callable[[ReadyReply], None],
        note: Callable[[str], None],
    ):
        """name: of the worker, for people. start: begins to start a process. on_ready: gets what
        each says of itself; note: what it notes while it draws.
        """
        self.name, self.start = name, start
        self.is_stopping, self.on_ready, self.note = is_stopping, on_ready, note
        self.is_loaded = False
        self._memory: dict[str, int] = {}
        self._process: Process | None = None
        self._number = 0

    # seconds between two looks whether its process still lives
    pulse = 2.0

    def open(self) -> None:
        """See `Drawer`. Raises UnfitWorkerError."""
        how = ""
        for _ in range(MAX_FAILED_STARTS):
            try:
                self._process = self.start()
                ready = self._process.opened(self.is_stopping)
            except DeadWorkerError as error:
                self.close()
                how = str(error)
                continue
            if ready is not None:
                self.on_ready(ready)
            return
        raise UnfitWorkerError(f"died {MAX_FAILED_STARTS} times before it could work ({how})")

    def draw(self, judged: JudgedJob, index: int, watch: Watch) -> bytes:
        """See `Drawer`. Raises UnfitWorkerError as well."""
        if self._process is None:
            self.open()
        assert self._process is not None
        watch.step(0, judged.jobs[index].steps, 0)
        self._number += 1
        task = DrawTask(
            self._number, judged.drawing, index, judged.form, judged.metadata, judged.picture
        )
        try:
            reply = self._watched(self._process, task, watch)
        except DeadWorkerError as error:
            self.close()
            raise LostPictureError(f"{self.name} died ({error})") from None
        self._memory, self.is_loaded = dict(reply.memory), True
        for line in reply.notes:
            watch.note(line)
        if reply.is_cancelled:
            raise Cancelled
        if reply.error is not None:
            raise PulidError(reply.error)
        return reply.data

    def _watched(self, process: Process, task: DrawTask, watch: Watch) -> DrawReply:
        """What comes of a task; `watch` hears meanwhile how far it is. Raises DeadWorkerError."""
        process.begin(task)
        process.ask(Look(task.number, 0, watch.is_watched))
        steps, is_told = 0, False
        while True:
            event = process.event()
            if watch.is_cancelled and not is_told:
                is_told = True
                process.tell(Cancel(task.number))
            if event is None:
                continue
            news = event.answer.news if isinstance(event, Done) else event.answer
            if news is not None and news.number == task.number:
                _pass_on(news, steps, watch)
                steps = news.steps
            if isinstance(event, Done):
                for line in event.notes:
                    self.note(line)
                reply: DrawReply = event.answer
                return reply
            process.ask(Look(task.number, news.count, watch.is_watched))

    def memory(self) -> dict[str, int]:
        """See `Drawer`: as of its last picture."""
        return {f"{self.name}: {device}": used for device, used in self._memory.items()}

    def is_there(self) -> bool:
        """See `Drawer`. Raises UnfitWorkerError."""
        if self._process is not None:
            try:
                reply = self._process.check()
            except DeadWorkerError:
                self.close()
            else:
                for line in reply.notes if reply is not None else ():
                    self.note(line)
        return self._process is not None

    def release(self) -> None:
        """See `Drawer`."""
        if self._process is not None and self.is_loaded:
            try:
                self._process.tell(Release())
            except DeadWorkerError:
                # the next picture starts another
                self.close()
            self.is_loaded = False

    def close(self) -> None:
        """See `Drawer`."""
        process, self._process = self._process, None
        self.is_loaded, self._memory = False, {}
        if process is not None:
            process.kill()


def _pass_on(news: News, steps: int, watch: Watch) -> None:
    """steps: that were passed on before."""
    if news.preview is not None:
        watch.show(news.preview)
    # the worker is told, and answers for it
    with contextlib.suppress(Cancelled):
        watch.step(*news.step, news.steps - steps)
