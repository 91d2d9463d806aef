"""Work in another thread, so that it overlaps with what the caller does meanwhile. Knows nothing of
the work.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(work: Callable[[Item], Result], items: Iterable[Item], depth: int) -> Iterator[Result]:
    """The results in order, computed in one other thread, `depth` items before they are wanted.

    Raises what `work` raised, where its result would have come.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class BackgroundCall(threading.Thread, Generic[Result]):
    """One call that begins at once. A daemon: a run that fails does not wait for it."""

    def __init__(self, function: Callable[[], Result]):
        super().__init__(daemon=True)
        self._function = function
        self._results: list[Result] = []
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        """The thread's own; not to be called."""
        try:
            self._results.append(self._function())
        except Exception as error:
            self._error = error

    def result(self) -> Result:
        """Waits for it. Raises what the function raised."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._results[0]
