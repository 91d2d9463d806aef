"""One reader on one input: what came of it. An error of ours is what was promised; everything else,
what takes long, and what takes much memory, is a finding.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import typer

from pulid_extract.shared.errors import PulidError

ROOT = Path(__file__).resolve().parents[2]
# seconds of the processor for one input (the clock rings after four times as many of the wall's),
# and MiB that it may add to the largest size of the process: a picture (or /dev/zero) is read up to
# 512
TOO_LONG, TOO_MUCH = 5.0, 600
# wrong usage is answered by these
EXPECTED = (PulidError, typer.BadParameter, click.UsageError, typer.Exit)
# longest message that a person gets
LONGEST = 1300


class HangError(BaseException):
    """Raised by the clock. Not an Exception, so that no reader takes it for a damaged file."""


@dataclass(frozen=True)
class Finding:
    """What went wrong, as a kind: the same kind has the same text."""

    reader: str
    what: str


def try_once(reader: str, read: Callable[[Any], object], value: Any) -> Finding | None:
    """None for a reader that took the input, or refused it by an error of ours."""
    before, started = _peak(), time.process_time()
    what = ""
    try:
        with _clock(), _silence():
            read(value)
    except EXPECTED as error:
        text = str(error)
        if len(text) > LONGEST or not text.isprintable():
            what = f"a message that is no line: {type(error).__name__}"
    except HangError:
        what = "takes longer than the clock"
    # panics of Rust's libraries are no Exceptions
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        what = f"{type(error).__name__} at {_place(error)}"
    seconds, grown = time.process_time() - started, _peak() - before
    if not what and seconds > TOO_LONG:
        what = f"takes {seconds:.0f} seconds"
    if not what and grown > TOO_MUCH:
        what = f"takes {round(grown, -2)} MiB"
    return Finding(reader, what) if what else None


def _place(error: BaseException) -> str:
    """Of our own line that is nearest to the error."""
    place = "nowhere of ours"
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and "site-packages" not in path.parts:
            place = f"{path.relative_to(ROOT)}:{frame.lineno}"
    return place


def _peak() -> int:
    """MiB, the most that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@contextlib.contextmanager
def _clock() -> Iterator[None]:
    def ring(number: int, frame: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 4 * TOO_LONG)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What libraries write to standard error on their way down."""
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
