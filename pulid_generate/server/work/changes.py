"""Something that changes in one thread while requests wait for it in the event loop. Knows not what
it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading


class Changes:
    """Counts what has changed, and wakes who waits for the next."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()
        self._waiting: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}

    @property
    def is_watched(self) -> bool:
        """Whether anybody waits now."""
        return bool(self._waiting)

    def announce(self) -> None:
        """Something has changed. From any thread."""
        with self._lock:
            self.count += 1
            for waiting, loop in self._waiting.items():
                # a loop that has ended waits for nothing
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(_wake, waiting)

    async def after(self, seen: int, seconds: float) -> int:
        """The count, once it is not `seen` any more, or after so many seconds."""
        loop = asyncio.get_running_loop()
        # for each step of a picture: asyncio.wait_for would make a task each time
        waiting: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self.count != seen:
                return self.count
            self._waiting[waiting] = loop
        timer = loop.call_later(seconds, _wake, waiting)
        try:
            await waiting
        finally:
            timer.cancel()
            with self._lock:
                del self._waiting[waiting]
        return self.count


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
