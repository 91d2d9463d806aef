"""Tasks shared out to workers that may die: who gets what, what is tried again, when to give up.
Exactly one answer for each task.

A worker pulls: it gets its next task as soon as it has room for one. The tasks in the hands of one
that dies go to others; each of them is then tried with nothing beside it, so that the one that
kills its workers is found out and the others are not blamed for it. Knows no Ray and no pictures.
Imports no torch.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pulid_extract.shared.errors import WorkerError

IN_HAND = 2  # tasks of a worker: the first half of one runs beside the second half of the other
ATTEMPTS = 3  # workers that one task may take with it
STARTS = 3  # workers of one place that may die before they are ready
HOPELESS = 3  # tasks given up one after the other, none done between them: it is not the tasks
PATIENCE = 600.0  # seconds without any worker that is ready
SETTLED = 64  # answers without a worker after which it is time to look at the workers again
TICK = 0.5  # seconds after which an interrupt is noticed


@dataclass(frozen=True)
class Lost:
    """The answer of a task whose workers died. reason: of the last one."""

    reason: str


@dataclass(frozen=True)
class Settled:
    """What `prepare` gives for a task that needs no worker: its answer."""

    answer: Any


@dataclass(eq=False)
class Worker:
    """One process that works. place: where, for messages. meal: tasks that it takes at once."""

    place: Any
    handle: Any = None
    ready: bool = False
    meal: int = 1
    # what is in its hands, as it was given
    held: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def numbers(self) -> list[int]:
        return [number for given in self.held for number in given]


@dataclass(frozen=True)
class Event:
    """What a worker did. done: (number, answer) of `tasks`. text: why it is unfit, or how it
    died.
    """

    kind: Literal["ready", "unfit", "done", "died"]
    worker: Worker
    tasks: tuple[int, ...] = ()
    done: Sequence[tuple[int, Any]] = ()
    text: str = ""


class Crew(Protocol):
    """Where workers come from."""

    def places(self) -> Collection[Any]:
        """Where a worker may be; those that joined since the last call as well."""

    def start(self, worker: Worker) -> None:
        """Begin to start it. An event tells when it is ready, unfit or dead."""

    def give(self, worker: Worker, tasks: Sequence[tuple[int, Any]]) -> None:
        """Numbers and what is to be done. An event tells when all of them are done, or that it
        died.
        """

    def events(self, seconds: float) -> list[Event]:
        """What happened; waits so long for the first of it."""


def share(
    count: int,
    prepare: Callable[[int], Any],
    crew: Crew,
    *,
    stopping: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[int, Any]]:
    """(number, answer) of every task 0 .. count - 1, as they are done; `Lost` for one that was
    given up.

    prepare: what a worker is given of a task, or `Settled`. It is asked again for a task that is
    tried again. stopping: True lets what is in hand be finished, and ends. say: gets a line when a
    worker dies or is unfit. Raises WorkerError when no worker is left.
    """
    return _Sharing(count, prepare, crew, stopping, say, clock).answers()


class _Sharing:
    def __init__(
        self,
        count: int,
        prepare: Callable[[int], Any],
        crew: Crew,
        stopping: Callable[[], bool],
        say: Callable[[str], None],
        clock: Callable[[], float],
    ):
        self.prepare, self.crew, self.stopping, self.say, self.clock = (
            prepare,
            crew,
            stopping,
            say,
            clock,
        )
        self.waiting = deque(range(count))
        self.suspects: deque[int] = deque()  # were in the hands of a worker that died
        self.deaths: Counter[int] = Counter()  # by task
        self.workers: dict[Any, Worker] = {}  # by place
        self.starts: Counter[Any] = Counter()  # deaths before being ready, by place
        self.closed: dict[Any, str] = {}  # places that get no worker any more, and why
        self.given_up = 0  # tasks, since the last that was done
        self.settled: list[tuple[int, Any]] = []

    def answers(self) -> Iterator[tuple[int, Any]]:
        since = self.clock()
        while True:
            stopped, more = self.stopping(), False
            if not stopped and (self.waiting or self.suspects):
                self._start()
                self._hand_out()
                more = bool(self.settled)
                yield from self.settled
                self.settled.clear()
            if not any(worker.held for worker in self.workers.values()) and (
                stopped or not (self.waiting or self.suspects)
            ):
                return
            if not self.workers:
                raise WorkerError(self._nobody())
            if any(worker.ready for worker in self.workers.values()):
                since = self.clock()
            elif self.clock() - since > PATIENCE:
                raise WorkerError(
                    f"no worker was ready within {PATIENCE / 60:.0f} minutes; `ray status` says what the cluster does"
                )
            for event in self.crew.events(0.0 if more else TICK):
                yield from self._handle(event)

    def _start(self) -> None:
        for place in self.crew.places():
            if place not in self.workers and place not in self.closed:
                self.workers[place] = Worker(place)
                self.crew.start(self.workers[place])

    def _hand_out(self) -> None:
        ready = [worker for worker in self.workers.values() if worker.ready]
        for depth in range(IN_HAND):  # everybody has one before anybody has two
            for worker in ready:
                if len(worker.held) <= depth and not self._is_tried(worker):
                    self._give(worker)

    def _is_tried(self, worker: Worker) -> bool:
        """Whether it works on a task that is to have nothing beside it."""
        return any(self.deaths[number] for number in worker.numbers)

    def _give(self, worker: Worker) -> None:
        if self.suspects and not worker.held:
            queue, most = self.suspects, 1
        else:
            queue, most = (
                self.waiting,
                min(worker.meal, max(1, len(self.waiting) // (IN_HAND * len(self.workers)))),
            )
        tasks: list[tuple[int, Any]] = []
        while queue and len(tasks) < most and len(self.settled) < SETTLED and not self.stopping():
            number = queue.popleft()
            task = self.prepare(number)
            if isinstance(task, Settled):
                self.settled.append((number, task.answer))
            else:
                tasks.append((number, task))
        if tasks:
            worker.held.append(tuple(number for number, _ in tasks))
            self.crew.give(worker, tasks)

    def _handle(self, event: Event) -> Iterator[tuple[int, Any]]:
        worker = event.worker
        if self.workers.get(worker.place) is not worker:  # has been given up
            return
        if event.kind == "ready":
            worker.ready = True
        elif event.kind == "done":
            worker.held.remove(event.tasks)
            self.given_up = 0
            yield from event.done
        elif event.kind == "unfit":
            self._dismiss(worker, event.text)
            self.waiting.extendleft(reversed(worker.numbers))  # not their fault
        else:
            yield from self._died(worker, event.text)

    def _dismiss(self, worker: Worker, why: str) -> None:
        """Without another in its place."""
        del self.workers[worker.place]
        self.closed[worker.place] = f"{worker.place}: {why}"
        self.say(f"{worker.place} is left out: {why}")

    def _died(self, worker: Worker, how: str) -> Iterator[tuple[int, Any]]:
        if not worker.ready:
            self.starts[worker.place] += 1
            if self.starts[worker.place] >= STARTS:
                self._dismiss(worker, f"died {STARTS} times before it could work ({how})")
                return
        del self.workers[worker.place]  # another takes its place
        left = [number for number in worker.numbers if not self._blame(number)]
        lost = [number for number in worker.numbers if number not in left]
        self.suspects.extend(left)
        again = f"; {len(left)} in its hands will be done again" if left else ""
        self.say(f"{worker.place} died ({how}){again}")
        self.given_up += len(lost)
        for number in lost:
            yield number, Lost(f"its worker died {ATTEMPTS} times; the last time: {how}")
        if self.given_up >= HOPELESS and (self.waiting or self.suspects):
            raise WorkerError(
                f"workers die whatever they work on; the last one on {worker.place}: {how}"
            )

    def _blame(self, number: int) -> bool:
        """Count a death; True if it was the last that this task may cause."""
        self.deaths[number] += 1
        return self.deaths[number] >= ATTEMPTS

    def _nobody(self) -> str:
        reasons = list(dict.fromkeys(self.closed.values()))
        if not reasons:
            return "the cluster has no place for a worker"
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        return f"no worker is left; {reasons[0]}{more}"
