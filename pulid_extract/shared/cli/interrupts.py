"""Ctrl-C that lets the picture in work be finished; a second one stops at once. And the end by a
signal that leaves nothing half-written behind. Knows no picture.

A program that is started with SIGINT ignored goes on ignoring it: a shell starts what stands before
`&` in a script that way, and so does nohup, so that the Ctrl-C of what runs in front does not stop
what runs behind. Python does the same for what has no `Interrupts`.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

MESSAGE = "stopping after the pictures in work; Ctrl-C again stops now"
# what asks a program to end: kill, a container that stops, a terminal that is closed
ENDS = ("SIGTERM", "SIGHUP")


@contextlib.contextmanager
def ending_cleanly() -> Iterator[None]:
    """What asks this process to end does so as an error would, so that half-written files are
    removed: exit code 128 and the signal's number, as a shell has it. The second one ends it where
    it stands. What was ignored from the start stays ignored.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ENDS:
            # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            # a server has handlers of its own by then
            if signal.getsignal(number) is end:
                signal.signal(number, handler)


def end(number: int, frame: FrameType | None) -> None:
    """The handler of `ending_cleanly`."""
    signal.signal(number, signal.SIG_DFL)
    sys.exit(128 + number)


def end_at_once() -> None:
    """From now on Ctrl-C ends the process where it stands: only Python's own end is left, in which
    an exception would be shown as a traceback.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


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
