"""One worker of `serve --ray`: draws the pictures that it is given with models that stay, says how
far it is to who asks, and hands back files. Writes nothing.

What was read of a request's files comes with the task; model files and LoRAs it finds by their
paths on its own machine.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pulid_extract.shared.cluster.actor import Place
from pulid_generate.assembly.opening import open_pipeline
from pulid_generate.assembly.progress import NoteKeeper
from pulid_generate.assembly.requests import Drawing
from pulid_generate.errors import PulidError
from pulid_generate.flags.commands.tables import BatchFlags
from pulid_generate.pictures.picture import Format
from pulid_generate.server.failures import mistake_of
from pulid_generate.server.work.drawing import Cancelled, LocalDrawer, StepReports
from pulid_generate.server.work.judging import JudgedJob
from pulid_generate.server.work.memory import memory_in_use

if TYPE_CHECKING:
    import numpy as np

# seconds that a question waits for news
PATIENCE = 1.0


@dataclass(frozen=True)
class WorkerSetup:
    """What every worker is told when it starts."""

    flags: BatchFlags
    # that relative names of files start from, where it is there
    folder: str
    # whether anybody can be drawn
    with_pulid: bool
    # what must be the same on every machine, or pictures would differ without a word
    facts: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class DrawTask:
    """One picture to draw."""

    # of this worker's tasks
    number: int
    drawing: Drawing
    # of the drawing's pictures, from 0
    index: int
    form: Format
    metadata: bool
    # (H, W, 3) uint8 RGB, whose faces are redrawn; None draws a picture
    picture: np.ndarray | None = None


@dataclass(frozen=True)
class News:
    """How far a picture is."""

    number: int
    count: int
    # steps done, and of how many
    step: tuple[int, int]
    # steps done in all passes
    steps: int
    preview: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class DrawReply:
    """What came of a task."""

    # the picture's file
    data: bytes = field(default=b"", repr=False)
    error: str | None = None
    is_cancelled: bool = False
    # what who asked for it should know
    notes: tuple[str, ...] = ()
    # the last of it
    news: News | None = None
    # device -> bytes in use
    memory: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """How far is it? Answered with `News`, once there are any."""

    number: int
    # News.count of the last ones
    seen: int
    # whether somebody looks at previews
    is_watched: bool


@dataclass(frozen=True)
class Cancel:
    """End a picture before its next step."""

    number: int


@dataclass(frozen=True)
class Release:
    """Let the models go."""


class MistakeError(Exception):
    """A bug: its kind and place, and no word of what was asked for."""


class PictureWorker:
    """See `cluster.Actor`. One thread calls `work`, others `hear`."""

    tasks_per_call = 1

    def __init__(self, setup: WorkerSetup, place: Place):
        """Reads headers, loads nothing. Raises PulidError."""
        from pulid_generate.batch.ray_worker import check_facts, facts_of

        if os.path.isdir(setup.folder):
            os.chdir(setup.folder)
        flags = setup.flags
        self.threads = flags.threads if flags.threads is not None else place.cpus
        self.notes: list[str] = []
        device = "cpu" if flags.cpus_per_worker is not None else flags.device
        reports = StepReports(NoteKeeper(self.notes))
        self.pipeline = open_pipeline(
            replace(flags, device=device, threads=self.threads),
            with_pulid=setup.with_pulid,
            progress=reports,
        )
        check_facts(facts_of(self.pipeline), setup.facts)
        self._drawer = LocalDrawer(self.pipeline, threading.Lock(), reports, place.peers)
        # held while a picture is in work, and while models go
        self._busy = threading.Lock()
        self._stage = Stage()

    def work(self, tasks: Sequence[tuple[int, DrawTask]]) -> list[tuple[int, DrawReply]]:
        """One task. Raises MistakeError."""
        if self.threads > 0:
            import torch

            # OpenMP counts by thread
            torch.set_num_threads(self.threads)
        [(number, task)] = tasks
        with self._busy:
            self._stage.begin(task.number)
            try:
                reply = self._draw(task)
            except Exception as error:
                raise MistakeError(mistake_of(error)) from None
            finally:
                last = self._stage.end()
        notes = tuple(self._stage.notes)
        return [(number, replace(reply, notes=notes, news=last, memory=memory_in_use()))]

    def _draw(self, task: DrawTask) -> DrawReply:
        try:
            jobs = task.drawing.jobs(self.pipeline)
            judged = JudgedJob(task.drawing, jobs, task.form, task.metadata, [], task.picture)
            return DrawReply(self._drawer.draw(judged, task.index, self._stage))
        except Cancelled:
            return DrawReply(is_cancelled=True)
        except PulidError as error:
            return DrawReply(error=str(error))

    def hear(self, message: Look | Cancel | Release) -> Any:
        """News for `Look`, nothing for others."""
        if isinstance(message, Look):
            return self._stage.news(message)
        if isinstance(message, Cancel):
            self._stage.cancel(message.number)
        else:
            with self._busy:
                self._drawer.release()
        return None


class Stage:
    """How far the picture in work is; see `drawing.Watch`. Safe between threads."""

    def __init__(self) -> None:
        self.is_watched = False
        self.notes: list[str] = []
        self._changed = threading.Condition()
        self._news = News(0, 0, (0, 0), 0)
        self._cancelled: int | None = None
        self._in_work = False

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled == self._news.number

    @property
    def is_due(self) -> bool:
        # the server knows better
        return True

    def begin(self, number: int) -> None:
        with self._changed:
            self._in_work = True
        self.notes = []
        self._tell(News(number, self._news.count + 1, (0, 0), 0))

    def end(self) -> News:
        """The last of it."""
        with self._changed:
            self._in_work = False
            self._changed.notify_all()
            return self._news

    def cancel(self, number: int) -> None:
        self._cancelled = number

    def step(self, done: int, total: int, count: int = 1) -> None:
        if self.is_cancelled:
            raise Cancelled
        steps = self._news.steps + count
        self._tell(replace(self._news, step=(done, total), steps=steps))

    def show(self, preview: bytes) -> None:
        # with the step that follows at once
        self._news = replace(self._news, preview=preview)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def _tell(self, news: News) -> None:
        with self._changed:
            self._news = replace(news, count=self._news.count + 1)
            self._changed.notify_all()

    def news(self, look: Look) -> News:
        """What is new since a look; after PATIENCE seconds, or for another picture, whatever there
        is.
        """
        self.is_watched = look.is_watched
        with self._changed:
            self._changed.wait_for(lambda: self._is_new(look), PATIENCE)
            told, self._news = self._news, replace(self._news, preview=None)
            return told

    def _is_new(self, look: Look) -> bool:
        return self._news.count != look.seen or not self._in_work


def open_picture_worker(setup: WorkerSetup, place: Place) -> PictureWorker:
    """For `functools.partial`, which Ray can send."""
    return PictureWorker(setup, place)
