"""The process of one worker: it makes what works once, then calls it for every packet of tasks.

Errors leave as replies, which say whether the task, the worker or our own code is to blame. Knows
no Ray, no picture and no model: what works is handed in.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pulid_extract.shared import openmp, telemetry
from pulid_extract.shared.errors import PulidError


@dataclass(frozen=True)
class Place:
    """Where one worker may run."""

    # Ray's id of the machine, and its name or address
    node: str
    host: str
    # of this worker on its machine, from 0
    index: int
    # cores, and so threads, for it
    cpus: int
    # whether it has a GPU of its own
    gpu: bool
    # workers of that machine, this one included
    peers: int

    def __str__(self) -> str:
        return f"worker {self.index + 1} on {self.host}"


# Makes what works: an object with `notes`, which may grow while it works, `tasks_per_call` and
# `work`, and `hear` if somebody asks it. Importable on every node.
OpenWork = Callable[[Place], Any]


@dataclass(frozen=True)
class ReadyReply:
    """What a worker says of itself once it can work."""

    # its process id
    process: int
    # for the person at the terminal
    notes: tuple[str, ...]
    # how many tasks it takes at once
    tasks_per_call: int


@dataclass(frozen=True)
class DoneReply:
    """The reply to a call that was done."""

    # (number, answer) of each task
    answers: list[tuple[int, Any]]
    # for the person at the terminal, since the reply before
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnfitReply:
    """The reply of a worker that cannot work at all."""

    reason: str


@dataclass(frozen=True)
class BrokenReply:
    """The reply after an unexpected error: what the worker holds may be spoilt, so it is treated as
    if it had died.
    """

    reason: str


class UnfitWorkerError(PulidError):
    """No task is to blame: this worker cannot do any."""


class Actor:
    """The process of one worker. Its methods reply; they never raise."""

    def __init__(self, open_work: OpenWork, place: Place):
        self._work: Any = None
        self._problem: UnfitReply | None = None
        # of its notes, how many a reply has told
        self._told, self._telling = 0, threading.Lock()
        # several workers would fetch the same file at once
        os.environ["HF_HUB_OFFLINE"] = "1"
        # on another machine nobody has done it
        telemetry.switch_off()
        openmp.wait_asleep()
        try:
            self._work = open_work(place)
        except PulidError as error:
            self._problem = UnfitReply(str(error))
        except Exception as error:
            self._problem = UnfitReply(_line_of(error))

    def opened(self) -> UnfitReply | ReadyReply:
        """Whether it can work."""
        if self._problem is not None:
            return self._problem
        return ReadyReply(os.getpid(), self._new_notes(), self._work.tasks_per_call)

    def work(self, tasks: list[tuple[int, Any]]) -> UnfitReply | BrokenReply | DoneReply:
        """Does each (number, task)."""
        try:
            return DoneReply(self._work.work(tasks), self._new_notes())
        except UnfitWorkerError as error:
            return UnfitReply(str(error))
        except Exception as error:
            return BrokenReply(_line_of(error))

    def hear(self, message: Any) -> Any:
        """What it says to a message that comes beside its tasks, in a thread of its own."""
        try:
            return self._work.hear(message)
        except Exception as error:
            return BrokenReply(_line_of(error))

    def _new_notes(self) -> tuple[str, ...]:
        with self._telling:
            notes = tuple(self._work.notes[self._told :])
            self._told += len(notes)
        return notes


def _line_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
