"""Tasks for workers that may die: which worker gets which, what is tried again, when to give up.
Exactly one answer for each task.

A worker pulls: it gets its next task as soon as it has room for one. The tasks of a worker that
dies go to others; each of them is then tried with nothing beside it, so that the one that kills its
workers is found and the others are not blamed for it. Knows no Ray and no pictures. Imports no
torch.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pulid_extract.shared.errors import WorkerError

# calls of a worker at a time: the first half of one runs beside the second half of the other
CALLS_PER_WORKER = 2
# workers that one task may kill
MAX_DEATHS = 3
# workers of one place that may die before they are ready
MAX_FAILED_STARTS = 3
# tasks given up one after the other, none done between them: then it is not the tasks
MAX_LOST_IN_A_ROW = 3
# seconds without any worker that is ready
READY_TIMEOUT = 600.0
# answers without a worker after which it is time to look at the workers again
MAX_KNOWN_ANSWERS = 64
# seconds after which an interrupt is noticed
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class LostTask:
    """The answer of a task whose workers died. reason: of the last death."""

    reason: str


@dataclass(frozen=True)
class KnownAnswer:
    """What `prepare` gives for a task that needs no worker: its answer."""

    answer: Any


@dataclass(eq=False)
class Worker:
    """One process that works."""

    # where, for messages
    place: Any
    # the pool's own
    handle: Any = None
    ready: bool = False
    # how many tasks it takes at once
    tasks_per_call: int = 1
    # the task numbers of each call that has no answer yet
    calls: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def numbers(self) -> list[int]:
        """The tasks that it works on."""
        return list(itertools.chain.from_iterable(self.calls))


@dataclass(frozen=True)
class WorkerEvent:
    """What a worker did."""

    kind: Literal["ready", "unfit", "done", "died"]
    worker: Worker
    # of "done": the task numbers of the call, and (number, answer) of each
    tasks: tuple[int, ...] = ()
    answers: Sequence[tuple[int, Any]] = ()
    # why it is unfit, or how it died
    text: str = ""


class WorkerPool(Protocol):
    """Where workers come from."""

    def places(self) -> Collection[Any]:
        """Where a worker may be; those that joined since the last call as well."""

    def start(self, worker: Worker) -> None:
        """Begin to start it. An event tells when it is ready, unfit or dead."""

    def give(self, worker: Worker, tasks: Sequence[tuple[int, Any]]) -> None:
        """Hand it (number, task) pairs. An event tells that all are done, or that it died."""

    def events(self, seconds: float) -> list[WorkerEvent]:
        """What happened; waits at most so long for the first event."""


def dispatch(
    count: int,
    prepare: Callable[[int], Any],
    pool: WorkerPool,
    *,
    stopping: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[int, Any]]:
    """(number, answer) of every task 0 .. count - 1, as they are done; `LostTask` for one that was
    given up.

    prepare: what a worker is given of a task, or a `KnownAnswer`; it is asked again for a task that
    is tried again. stopping: True lets the calls that are out be finished, and ends. say: gets a
    line when a worker dies or is unfit. Raises WorkerError when no worker is left.
    """
    return _Dispatcher(count, prepare, pool, stopping, say, clock).answers()


class _Dispatcher:
    """The state of one `dispatch`."""

    def __init__(
        self,
        count: int,
        prepare: Callable[[int], Any],
        pool: WorkerPool,
        stopping: Callable[[], bool],
        say: Callable[[str], None],
        clock: Callable[[], float],
    ):
        self.prepare, self.pool, self.stopping = prepare, pool, stopping
        self.say, self.clock = say, clock
        self.waiting = deque(range(count))
        # tasks of workers that died
        self.suspects: deque[int] = deque()
        # task -> workers that died of it
        self.deaths: Counter[int] = Counter()
        # place -> its worker
        self.workers: dict[Any, Worker] = {}
        # place -> workers that died before they were ready
        self.failed_starts: Counter[Any] = Counter()
        # place that gets no worker any more -> why
        self.closed: dict[Any, str] = {}
        # tasks given up since the last that was done
        self.lost_in_a_row = 0
        self.known_answers: list[tuple[int, Any]] = []

    def answers(self) -> Iterator[tuple[int, Any]]:
        since = self.clock()
        while True:
            stopped = self.stopping()
            at_once = False
            if not stopped and self._has_tasks():
                self._start_workers()
                self._hand_out()
                at_once = bool(self.known_answers)
                yield from self.known_answers
                self.known_answers.clear()
            works = any(worker.calls for worker in self.workers.values())
            if not works and (stopped or not self._has_tasks()):
                return
            if not self.workers:
                raise WorkerError(self._why_no_worker())
            if any(worker.ready for worker in self.workers.values()):
                since = self.clock()
            elif self.clock() - since > READY_TIMEOUT:
                raise WorkerError(
                    f"no worker was ready within {READY_TIMEOUT / 60:.0f} minutes; "
                    "`ray status` says what the cluster does"
                )
            for event in self.pool.events(0.0 if at_once else POLL_SECONDS):
                yield from self._handle(event)

    def _has_tasks(self) -> bool:
        return bool(self.waiting or self.suspects)

    def _start_workers(self) -> None:
        for place in self.pool.places():
            if place not in self.workers and place not in self.closed:
                self.workers[place] = Worker(place)
                self.pool.start(self.workers[place])

    def _hand_out(self) -> None:
        ready = [worker for worker in self.workers.values() if worker.ready]
        # every worker has one call before any has two
        for depth in range(CALLS_PER_WORKER):
            for worker in ready:
                if len(worker.calls) <= depth and not self._tries_suspect(worker):
                    self._give(worker)

    def _tries_suspect(self, worker: Worker) -> bool:
        """Whether it works on a task that is to have nothing beside it."""
        return any(self.deaths[number] for number in worker.numbers)

    def _give(self, worker: Worker) -> None:
        if self.suspects and not worker.calls:
            queue, most = self.suspects, 1
        else:
            fair_part = len(self.waiting) // (CALLS_PER_WORKER * len(self.workers))
            queue, most = self.waiting, min(worker.tasks_per_call, max(1, fair_part))
        tasks: list[tuple[int, Any]] = []
        while queue and len(tasks) < most and len(self.known_answers) < MAX_KNOWN_ANSWERS:
            if self.stopping():
                break
            number = queue.popleft()
            task = self.prepare(number)
            if isinstance(task, KnownAnswer):
                self.known_answers.append((number, task.answer))
            else:
                tasks.append((number, task))
        if tasks:
            worker.calls.append(tuple(number for number, _ in tasks))
            self.pool.give(worker, tasks)

    def _handle(self, event: WorkerEvent) -> Iterator[tuple[int, Any]]:
        worker = event.worker
        # it has been given up
        if self.workers.get(worker.place) is not worker:
            return
        if event.kind == "ready":
            worker.ready = True
        elif event.kind == "done":
            worker.calls.remove(event.tasks)
            self.lost_in_a_row = 0
            yield from event.answers
        elif event.kind == "unfit":
            self._dismiss(worker, event.text)
            # its tasks are not to blame
            self.waiting.extendleft(reversed(worker.numbers))
        else:
            yield from self._died(worker, event.text)

    def _dismiss(self, worker: Worker, why: str) -> None:
        """No other worker takes its place."""
        del self.workers[worker.place]
        self.closed[worker.place] = f"{worker.place}: {why}"
        self.say(f"{worker.place} is left out: {why}")

    def _died(self, worker: Worker, how: str) -> Iterator[tuple[int, Any]]:
        if not worker.ready:
            self.failed_starts[worker.place] += 1
            if self.failed_starts[worker.place] >= MAX_FAILED_STARTS:
                why = f"died {MAX_FAILED_STARTS} times before it could work ({how})"
                self._dismiss(worker, why)
                return
        # another takes its place
        del self.workers[worker.place]
        retried, lost = [], []
        for number in worker.numbers:
            self.deaths[number] += 1
            if self.deaths[number] < MAX_DEATHS:
                retried.append(number)
            else:
                lost.append(number)
        self.suspects.extend(retried)
        again = f"; {len(retried)} in its hands will be done again" if retried else ""
        self.say(f"{worker.place} died ({how}){again}")
        self.lost_in_a_row += len(lost)
        for number in lost:
            yield number, LostTask(f"its worker died {MAX_DEATHS} times; the last time: {how}")
        if self.lost_in_a_row >= MAX_LOST_IN_A_ROW and self._has_tasks():
            raise WorkerError(
                f"workers die whatever they work on; the last one on {worker.place}: {how}"
            )

    def _why_no_worker(self) -> str:
        reasons = list(dict.fromkeys(self.closed.values()))
        if not reasons:
            return "the cluster has no place for a worker"
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        return f"no worker is left; {reasons[0]}{more}"
