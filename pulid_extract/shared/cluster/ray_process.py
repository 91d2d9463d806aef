"""One process on a Ray cluster for one caller, who gives it a task and asks meanwhile how far it
is. Belongs to one thread. Knows no picture. Imports no torch, and Ray only when a process starts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pulid_extract.shared.cluster.actor import (
    BrokenReply,
    DoneReply,
    OpenWork,
    Place,
    ReadyReply,
    UnfitReply,
    UnfitWorkerError,
)
from pulid_extract.shared.cluster.ray_workers import line_of, start_actor
from pulid_extract.shared.errors import WorkerError

# of a process: its task, a question whose answer may take a while, and one that may not
CALLS = 3
# seconds after which a caller looks up from waiting
LOOK = 0.05


class DeadWorkerError(WorkerError):
    """A process that has ended, or that is not to be trusted any more. Says how."""


@dataclass(frozen=True)
class Done:
    """Its task is done."""

    answer: Any
    # that it made meanwhile
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Heard:
    """Its answer to what it was asked."""

    answer: Any


class RayProcess:
    """A process with one task at a time. Its methods raise DeadWorkerError, and UnfitWorkerError
    for one that cannot do any task.
    """

    def __init__(self, open_work: OpenWork, place: Place):
        """Begins to start."""
        with _ray_errors():
            self._actor = start_actor(open_work, place, CALLS)
        # Ray's references
        self._task: Any = None
        self._question: Any = None
        self._pulse: Any = None

    def opened(self, is_stopping: Callable[[], bool]) -> ReadyReply | None:
        """What it says of itself once it can work; None if that is not waited for any more."""
        with _ray_errors():
            reference = self._actor.opened.remote()
        while not self._ended([reference]):
            if is_stopping():
                return None
        reply: ReadyReply = self._get(reference)
        return reply

    def begin(self, task: Any) -> None:
        """Give it a task."""
        with _ray_errors():
            self._task = self._actor.work.remote([(0, task)])

    def ask(self, message: Any) -> None:
        """Ask it something beside its task; what was asked before is not waited for any more."""
        with _ray_errors():
            self._question = self._actor.hear.remote(message)

    def tell(self, message: Any) -> None:
        """The same, and no answer is wanted."""
        with _ray_errors():
            self._actor.hear.remote(message)

    def event(self) -> Done | Heard | None:
        """What happens next; None if nothing does within LOOK seconds."""
        pending = [self._task]
        if self._question is not None:
            pending.append(self._question)
        ended = self._ended(pending)
        if self._task in ended:
            self._task, reference = None, self._task
            reply: DoneReply = self._get(reference)
            [(_, answer)] = reply.answers
            return Done(answer, reply.notes)
        if ended:
            self._question, reference = None, self._question
            return Heard(self._get(reference))
        return None

    def check(self) -> ReadyReply | None:
        """See whether it still answers, while it has nothing to do: what was asked at the last call
        is looked at in this one, so that nobody waits. None if it has not answered yet.
        """
        import ray

        with _ray_errors():
            if self._pulse is None:
                self._pulse = self._actor.opened.remote()
            has_answered = bool(ray.wait([self._pulse], num_returns=1, timeout=0)[0])
        if not has_answered:
            return None
        self._pulse, reference = None, self._pulse
        reply: ReadyReply = self._get(reference)
        return reply

    def kill(self) -> None:
        """End it now; it may be out of reach."""
        import ray

        with contextlib.suppress(Exception):
            ray.kill(self._actor)

    def _ended(self, references: list[Any]) -> list[Any]:
        import ray

        with _ray_errors():
            ended: list[Any] = ray.wait(references, num_returns=1, timeout=LOOK)[0]
        return ended

    def _get(self, reference: Any) -> Any:
        import ray

        with _ray_errors():
            reply = ray.get(reference)
        if isinstance(reply, UnfitReply):
            raise UnfitWorkerError(reply.reason)
        if isinstance(reply, BrokenReply):
            raise DeadWorkerError(reply.reason)
        return reply


@contextlib.contextmanager
def _ray_errors() -> Iterator[None]:
    """RayActorError and its kin: whatever it is, nothing more will come of the process."""
    try:
        yield
    except Exception as error:
        raise DeadWorkerError(line_of(error)) from None
