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
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    @property
    def is_watched(self) -> bool:
        """Whether anybody waits now."""
        return bool(self._waiting)

    def announce(self) -> None:
        """Something has changed. From any thread."""
        with self._lock:
            self.count += 1
            for event, loop in self._waiting.items():
                # a loop that has ended waits for nothing
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(event.set)

    async def after(self, seen: int, seconds: float) -> int:
        """The count, once it is not `seen` any more, or after so many seconds."""
        event = asyncio.Event()
        with self._lock:
            if self.count != seen:
                return self.count
            self._waiting[event] = asyncio.get_running_loop()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), seconds)
        finally:
            with self._lock:
                del self._waiting[event]
        return self.count
