"""A line now and then while a command works and has nothing else to say, for who looks into a log
and wonders whether it goes on. Knows no work.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType

from pulid_extract.shared.cli import console

# seconds between two lines
PAUSE = 30.0


class Heartbeat:
    """stage: what is done just now, in words; to be set as the work goes on. Within `with`."""

    def __init__(self, stage: str):
        self.stage = stage
        self._ended = threading.Event()
        # a daemon: it keeps nobody from ending
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        started = time.monotonic()
        while not self._ended.wait(PAUSE):
            console.log(f"{self.stage}, {time.monotonic() - started:.0f} s so far")
