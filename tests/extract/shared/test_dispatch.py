"""Tasks shared out to workers that die, with a pool of fakes: everybody pulls, everything is
answered once, nothing is tried for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from pulid_extract.shared.cluster.dispatch import (
    CALLS_PER_WORKER,
    MAX_DEATHS,
    MAX_FAILED_STARTS,
    READY_TIMEOUT,
    KnownAnswer,
    LostTask,
    Worker,
    WorkerEvent,
    dispatch,
)
from pulid_extract.shared.errors import WorkerError


class FakePool:
    """Does one thing at each call of `events`. what(worker, task) -> an answer, or "dies" or
    "unfit".
    """

    def __init__(
        self,
        places: Sequence[str],
        what: Callable[[Worker, int], object],
        opens: Callable[[str], str] = lambda place: "ready",
    ):
        self.named, self.what, self.opens = list(places), what, opens
        self.todo: list[tuple[Worker, tuple[int, ...] | None]] = []
        # place, tasks, how many packets it has then
        self.given: list[tuple[str, tuple[int, ...], int]] = []
        self.started: list[str] = []

    def places(self) -> list[str]:
        return self.named

    def start(self, worker: Worker) -> None:
        self.started.append(worker.place)
        self.todo.append((worker, None))

    def give(self, worker: Worker, tasks: Sequence[tuple[int, object]]) -> None:
        numbers = tuple(number for number, _ in tasks)
        assert all(task == f"task {number}" for number, task in tasks)
        self.given.append((worker.place, numbers, len(worker.calls)))
        self.todo.append((worker, numbers))

    def events(self, seconds: float) -> list[WorkerEvent]:
        if not self.todo:
            return []
        worker, numbers = self.todo.pop(0)
        if numbers is None:
            kind = self.opens(worker.place)
            return [WorkerEvent(kind, worker, text="no models" if kind == "unfit" else "killed")]  # type: ignore[arg-type]
        answers = [(number, self.what(worker, number)) for number in numbers]
        bad = [answer for _, answer in answers if answer in ("dies", "unfit")]
        if not bad:
            return [WorkerEvent("done", worker, numbers, answers=answers)]
        self.todo = [(other, held) for other, held in self.todo if other is not worker]
        return [
            WorkerEvent(
                "died" if bad[0] == "dies" else "unfit",
                worker,
                text="signal 9" if bad[0] == "dies" else "damaged",
            )
        ]


def task(number: int) -> str:
    return f"task {number}"


def run(count: int, pool: FakePool, **more) -> tuple[dict[int, object], list[str]]:
    said: list[str] = []
    found = list(dispatch(count, task, pool, say=said.append, **more))
    assert len(found) == len(dict(found))  # exactly one answer for each
    return dict(found), said


def test_everything_is_answered_once_and_everybody_pulls():
    pool = FakePool("abc", lambda worker, number: number * 10)
    found, said = run(20, pool)
    assert found == {number: number * 10 for number in range(20)}
    assert said == []
    assert Counter(place for place, _, _ in pool.given).keys() == set("abc")
    assert max(held for _, _, held in pool.given) == CALLS_PER_WORKER
    # in their order
    assert [numbers for _, numbers, _ in pool.given] == [(number,) for number in range(20)]


def test_what_a_dead_worker_held_is_done_by_others():
    died = []

    def what(worker: Worker, number: int) -> object:
        if worker.place == "a" and number > 2 and not died:
            died.append(number)
            return "dies"
        return worker.place

    pool = FakePool("ab", what)
    found, said = run(8, pool)
    assert sorted(found) == list(range(8))
    assert "dies" not in found.values()
    assert len(died) == 1
    assert len(said) == 1
    assert said[0].startswith("a died (signal 9); 2 in its hands will be done again")
    assert pool.started == ["a", "b", "a"]  # another takes its place


def test_a_task_that_kills_its_workers_is_given_up_and_takes_nobody_with_it():
    tries = Counter()

    def what(worker: Worker, number: int) -> object:
        tries[number] += 1
        return "dies" if number == 3 else "fine"

    for places in ("a", "ab"):
        tries.clear()
        pool = FakePool(places, what)
        found, _ = run(9, pool)
        assert isinstance(found.pop(3), LostTask)
        assert set(found.values()) == {"fine"}
        assert sorted(found) == [0, 1, 2, 4, 5, 6, 7, 8]
        assert tries[3] == MAX_DEATHS
        # once suspected, it is alone in its worker's hands
        alone = [held for _, numbers, held in pool.given if 3 in numbers][1:]
        assert alone == [1] * (MAX_DEATHS - 1)


def test_where_every_task_kills_its_worker_it_ends():
    pool = FakePool("ab", lambda worker, number: "dies")
    with pytest.raises(
        WorkerError, match=r"workers die whatever they work on; the last one on \w: signal 9"
    ):
        run(1000, pool)
    assert len(pool.started) < 30


def test_a_place_whose_workers_cannot_start_is_left_out_and_named():
    pool = FakePool(
        "ab",
        lambda worker, number: worker.place,
        opens=lambda place: "unfit" if place == "a" else "ready",
    )
    found, said = run(4, pool)
    assert set(found.values()) == {"b"}
    assert said == ["a is left out: no models"]
    assert pool.started == ["a", "b"]  # not tried again
    with pytest.raises(WorkerError, match=r"no worker is left; a: no models \(and 1 more\)"):
        run(4, FakePool("ab", lambda worker, number: 0, opens=lambda place: "unfit"))
    with pytest.raises(WorkerError, match="no place for a worker"):
        run(4, FakePool("", lambda worker, number: 0))


def test_a_worker_that_dies_before_it_is_ready_is_not_started_for_ever():
    pool = FakePool("a", lambda worker, number: 0, opens=lambda place: "died")
    with pytest.raises(WorkerError, match="died 3 times before it could work"):
        run(4, pool)
    assert len(pool.started) == MAX_FAILED_STARTS


def test_an_unfit_worker_gives_its_tasks_back_and_they_are_not_blamed():
    pool = FakePool("ab", lambda worker, number: "unfit" if worker.place == "a" else "fine")
    found, said = run(7, pool)
    assert set(found.values()) == {"fine"}
    assert len(found) == 7
    assert said == ["a is left out: damaged"]


def test_stopping_finishes_what_is_in_hand_and_no_more():
    pool = FakePool("ab", lambda worker, number: "fine")
    found: list[tuple[int, object]] = []
    for answer in dispatch(100, task, pool, stopping=lambda: len(found) >= 3):
        found.append(answer)
    assert len(found) == 3 + 2 * CALLS_PER_WORKER - 1
    assert sorted(number for number, _ in found) == sorted(
        number for _, numbers, _ in pool.given for number in numbers
    )


def test_a_death_while_stopping_ends_as_well():
    pool = FakePool("a", lambda worker, number: "dies")
    assert list(dispatch(5, task, pool, stopping=lambda: bool(pool.given))) == []
    assert pool.started == ["a"]


def test_settled_tasks_need_no_worker():
    def prepare(number: int) -> object:
        return KnownAnswer("known") if number != 150 else task(number)

    pool = FakePool("a", lambda worker, number: "done")
    found = list(dispatch(200, prepare, pool))
    assert len(found) == len(dict(found)) == 200
    assert Counter(answer for _, answer in found) == {"known": 199, "done": 1}
    assert [numbers for _, numbers, _ in pool.given] == [(150,)]


def test_a_worker_with_appetite_gets_several_but_not_the_others_share():
    def hungry(worker: Worker, number: int) -> object:
        return "fine"

    class Hungry(FakePool):
        def events(self, seconds: float) -> list[WorkerEvent]:
            found = super().events(seconds)
            for event in found:
                event.worker.tasks_per_call = 64
            return found

    pool = Hungry("ab", hungry)
    found, _ = run(100, pool)
    assert len(found) == 100
    sizes = [len(numbers) for _, numbers, _ in pool.given]
    assert sizes[:3] == [25, 18, 14]
    assert sum(sizes) == 100


def test_patience_ends():
    now = [0.0]

    class Asleep(FakePool):
        def events(self, seconds: float) -> list[WorkerEvent]:
            now[0] += 60
            return []

    with pytest.raises(WorkerError, match="no worker was ready within 10 minutes"):
        run(3, Asleep("a", lambda worker, number: 0), clock=lambda: now[0])
    assert now[0] == pytest.approx(READY_TIMEOUT + 60)
