"""How far a long read or download is, and sizes, for people. Knows nothing of what is read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

# Called with bytes done, and bytes in all or None.
Show = Callable[[int, int | None], None]
# without a total, a line in a file for so many bytes
LINE_BYTES = 100 << 20
# seconds between two updates on a terminal, and between two lines in a file
TERMINAL_PAUSE, FILE_PAUSE = 0.2, 2.0


def size_text(count: float) -> str:
    """Bytes for people, in decimal units: "23.8 GB"."""
    for unit, least in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= least:
            # three digits in all
            before_point = len(str(int(count / least)))
            return f"{count / least:.{max(0, 3 - before_point)}f} {unit}"
    return f"{count:.0f} bytes"


class Meter:
    """Shows how far a long read or download is: one line that overwrites itself on a terminal, a
    line per tenth in a file (and none within two seconds).

    Call it with (bytes done, bytes in all or None). The rate counts what came since the first call.
    """

    def __init__(
        self, label: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ):
        """label: what is read. stream: standard error by default."""
        self.label, self.stream, self.clock = label, stream or sys.stderr, clock
        self.first: tuple[int, float] | None = None
        self.last_time, self.last_tenth = clock(), 0

    def __call__(self, done: int, total: int | None) -> None:
        now = self.clock()
        if self.first is None:
            self.first = (done, now)
            self.last_tenth = 10 * done // total if total else 0
        start, began = self.first
        rate = (done - start) / (now - began) if now > began else 0.0
        if self.stream.isatty():
            ended = done == total
            if ended or now - self.last_time >= TERMINAL_PAUSE:
                self.last_time = now
                line = f"\r{self._line(done, total, rate):<79}"
                print(line, end="\n" if ended else "", file=self.stream, flush=True)
            return
        tenth = 10 * done // total if total else done // LINE_BYTES
        if tenth > self.last_tenth and now - self.last_time >= FILE_PAUSE:
            self.last_tenth, self.last_time = tenth, now
            print(self._line(done, total, rate), file=self.stream, flush=True)

    def _line(self, done: int, total: int | None, rate: float) -> str:
        share = f"{100 * done // total} % of {size_text(total)}" if total else size_text(done)
        left = f", {(total - done) / rate:.0f} s left" if total and rate and done < total else ""
        return f"{self.label}: {share}, {size_text(rate)}/s{left}"
