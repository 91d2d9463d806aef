"""Lines of results that leave while the work goes on, past `session.quiet`, which turns standard
output away from the libraries.
"""

from __future__ import annotations

import errno
import os
import sys
from types import TracebackType
from typing import BinaryIO

from pulid_extract.shared.errors import OutputError


class ResultLines:
    """Standard output, held by a descriptor of its own. Open it before `quiet`; every line arrives
    or raises.
    """

    def __init__(self) -> None:
        if sys.stdout is None:
            raise OutputError("standard output: is closed; redirect it to a file or a pipe")
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
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            raise OutputError(
                f"standard output: cannot be written ({error.strerror or error})"
            ) from None
