"""Ctrl-C that lets the picture in work be finished; a second one stops at once. Knows no picture.

A program that is started with SIGINT ignored goes on ignoring it: a shell starts what stands before
`&` in a script that way, and so does nohup, so that the Ctrl-C of what runs in front does not stop
what runs behind. Python does the same for what has no `Interrupts`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

MESSAGE = "stopping after the pictures in work; Ctrl-C again stops now"


class Interrupts:
    """asked: whether to stop at the next chance. Within `with`; outside `working` an interrupt
    stops at once, as usual.
    """

    def __init__(self, say: Callable[[str], None]):
        self.asked = False
        self._say = say
        self._working = False

    def __enter__(self) -> Interrupts:
        self._before = None
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """What is done within is finished before an interrupt counts."""
        before, self._working = self._working, True
        try:
            yield
        finally:
            self._working = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not self._working:
            raise KeyboardInterrupt
        self.asked = True
        self._say(MESSAGE)
