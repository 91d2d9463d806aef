"""All threads that draw: one in this process, or one for each worker of a cluster. Knows no Ray."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Protocol

from pulid_extract.shared.cluster.actor import Place
from pulid_extract.shared.errors import WorkerError
from pulid_generate.server.work.device import TIDYING, DeviceThread, tidy_up
from pulid_generate.server.work.memory import memory_in_use

# seconds between two looks at the workers of a cluster
LOOK_AFTER = 1.0


class Devices(Protocol):
    """Who draws."""

    @property
    def problem(self) -> str | None:
        """Why no job is drawn any more: a sentence."""

    @property
    def ready(self) -> int:
        """How many threads take jobs."""

    @property
    def loaded(self) -> int:
        """How many of them have models in memory."""

    def start(self, on_end: Callable[[], None]) -> None:
        """on_end: called, in another thread, once there is a `problem`. Raises WorkerError."""

    def stop(self) -> None:
        """The pictures in work are the last ones."""

    def join(self, seconds: float) -> None:
        """Wait for them, so long at most."""

    def memory(self) -> dict[str, int]:
        """device -> bytes in use."""


class OneDevice:
    """One thread; see `Devices`."""

    def __init__(self, thread: DeviceThread):
        self.thread = thread

    @property
    def problem(self) -> str | None:
        """See `Devices`."""
        return self.thread.problem

    @property
    def ready(self) -> int:
        return int(self.thread.is_ready)

    @property
    def loaded(self) -> int:
        return int(self.thread.drawer.is_loaded)

    def start(self, on_end: Callable[[], None]) -> None:
        """See `Devices`."""
        self.thread.on_end = on_end
        self.thread.start()

    def stop(self) -> None:
        """See `Devices`."""
        self.thread.is_stopping = True

    def join(self, seconds: float) -> None:
        """See `Devices`."""
        self.thread.join(seconds)

    def memory(self) -> dict[str, int]:
        """See `Devices`."""
        return memory_in_use()


class ClusterDevices:
    """A thread for each worker of a cluster; see `Devices`. A machine that joins gets its own."""

    def __init__(
        self,
        places: Callable[[], Collection[Place]],
        make: Callable[[Place], DeviceThread],
        tidy: Callable[[], None],
        say: Callable[[str], None],
    ):
        """places: where workers may be now. make: a thread for one, not started. say: gets a line
        for each worker that is left out.
        """
        self.places, self.make, self.tidy, self.say = places, make, tidy, say
        self.problem: str | None = None
        self._threads: dict[Place, DeviceThread] = {}
        self._left_out: dict[Place, str] = {}
        self._on_end: Callable[[], None] = lambda: None
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._look_after, name="workers", daemon=True)

    def start(self, on_end: Callable[[], None]) -> None:
        """See `Devices`. Raises WorkerError where there is no place for a worker."""
        self._on_end = on_end
        self._start_workers()
        if not self._threads:
            raise WorkerError("the cluster has no place for a worker")
        self._watcher.start()

    def _look_after(self) -> None:
        tidied = time.monotonic()
        while not self._stopped.wait(LOOK_AFTER):
            try:
                self._start_workers()
            # Ray's own, of a cluster that is gone, among them
            except Exception as error:
                self.problem = f"the cluster is gone ({type(error).__name__}: {error})"[:400]
            self._leave_out()
            if self.problem is not None:
                self._on_end()
                return
            if time.monotonic() - tidied >= TIDYING:
                tidied = time.monotonic()
                tidy_up(self.tidy)

    def _start_workers(self) -> None:
        for place in self.places():
            if place not in self._threads:
                self._threads[place] = self.make(place)
                self._threads[place].start()

    def _leave_out(self) -> None:
        for place, thread in list(self._threads.items()):
            if thread.problem is not None and place not in self._left_out:
                self._left_out[place] = thread.problem
                self.say(f"{place} is left out: {thread.problem}")
        if len(self._left_out) == len(self._threads):
            place, why = next(iter(self._left_out.items()))
            self.problem = f"no worker is left; {place}: {why}"

    def stop(self) -> None:
        """See `Devices`."""
        self._stopped.set()
        for thread in self.threads:
            thread.is_stopping = True

    def join(self, seconds: float) -> None:
        """See `Devices`."""
        until = time.monotonic() + seconds
        for thread in self.threads:
            thread.join(max(0.0, until - time.monotonic()))

    @property
    def threads(self) -> list[DeviceThread]:
        """All of them."""
        return list(self._threads.values())

    @property
    def ready(self) -> int:
        return sum(thread.is_ready for thread in self.threads)

    @property
    def loaded(self) -> int:
        return sum(thread.drawer.is_loaded for thread in self.threads)

    def memory(self) -> dict[str, int]:
        """See `Devices`."""
        found = memory_in_use()
        for thread in self.threads:
            found |= thread.drawer.memory()
        return found
