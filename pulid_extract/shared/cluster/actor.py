"""TODO"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pulid_extract.shared.errors import PulidError


@dataclass(frozen=True)
class Place:
    """Where a worker may be. index: on its node. cpus: threads. gpu: whether it has one of its own.
    peers: workers of that node.
    """

    node: str
    host: str
    index: int
    cpus: int
    gpu: bool
    peers: int

    def __str__(self) -> str:
        return f"worker {self.index + 1} on {self.host}"


# makes what works: an object with `notes`, `meal` and `work`. Must be importable on every node.
Open = Callable[[Place], Any]


@dataclass(frozen=True)
class Unfit:
    """What a worker answers that cannot work at all."""

    reason: str


@dataclass(frozen=True)
class Broken:
    """What a worker answers after an error that is nobody's but ours: what it holds may be spoilt,
    so it is to end as if it had died.
    """

    reason: str


@dataclass(frozen=True)
class Opened:
    """What a worker says of itself when it is ready. meal: see `workers.Worker`."""

    process: int
    notes: tuple[str, ...]
    meal: int


class UnfitError(PulidError):
    """What a task cannot be blamed for: this worker cannot do any."""


class Actor:
    """The process of one worker."""

    def __init__(self, open_work: Open, place: Place):
        self._work: Any = None
        self._problem: Unfit | None = None
        os.environ["HF_HUB_OFFLINE"] = "1"  # several workers would fetch the same file at once
        try:
            self._work = open_work(place)
        except PulidError as error:
            self._problem = Unfit(str(error))
        except Exception as error:
            self._problem = Unfit(_line_of(error))

    def opened(self) -> Unfit | Opened:
        return self._problem or Opened(os.getpid(), tuple(self._work.notes), self._work.meal)

    def work(self, tasks: list[tuple[int, Any]]) -> Unfit | Broken | list[tuple[int, Any]]:
        """(number, answer) of each."""
        try:
            return self._work.work(tasks)
        except UnfitError as error:
            return Unfit(str(error))
        except Exception as error:
            return Broken(_line_of(error))


def _line_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
