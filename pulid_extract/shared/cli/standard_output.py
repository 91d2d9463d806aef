"""Standard output while libraries run: kept free of what they print, and open to lines of results
that leave while the work goes on. Knows nothing of what is printed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO

from pulid_extract.shared.errors import OutputError

# what operating systems call it
STDOUT_NAMES = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries out of standard output, at the level of file descriptors, and their
    warnings out of standard error.

    Raises OutputError if there is no standard output: a result could not be said, and its
    descriptor may be any file's by now.
    """
    check_open()
    sys.stdout.flush()
    handler = logging.NullHandler()
    # without any handler, logging prints warnings by itself
    logging.getLogger().addHandler(handler)
    saved = None
    with contextlib.suppress(OSError):
        saved = os.dup(1)
        os.dup2(2, 1)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().removeHandler(handler)
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)


class ResultLines:
    """Standard output, held by a descriptor of its own, past `quiet`. Open it before that; every
    line arrives or raises.
    """

    def __init__(self) -> None:
        """Raises OutputError if there is no standard output."""
        check_open()
        self._file: BinaryIO | None = None

    def __enter__(self) -> ResultLines:
        sys.stdout.flush()
        self._file = os.fdopen(os.dup(1), "wb", buffering=0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, line: str) -> None:
        """One line. Raises OutputError, BrokenPipeError."""
        assert self._file is not None  # within `with`
        left = memoryview(f"{line}\n".encode())
        with known_to_arrive():
            while left:
                left = left[self._file.write(left) :]


def check_open() -> None:
    """Raises OutputError if there is no standard output."""
    if sys.stdout is None:
        raise OutputError("standard output: is closed; redirect it to a file or a pipe")


@contextlib.contextmanager
def known_to_arrive() -> Iterator[None]:
    """Around what is written to standard output: raises OutputError for what cannot be written, and
    BrokenPipeError where nobody reads any more.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        raise OutputError(
            f"standard output: cannot be written ({error.strerror or error})"
        ) from None


def dash_for_stdout(value: str | None) -> str | None:
    """A typer callback: "-" for the names that an operating system has for standard output, so that
    nothing but the result goes there; any other value as it is.
    """
    return "-" if value in STDOUT_NAMES else value
