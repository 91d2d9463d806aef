"""The end of a program, without taking apart what is in memory: torch's modules, gigabytes of
weights and a GPU's context take the interpreter up to seconds, and the system gets all of it back
at once. Everything that is to happen at the end still happens before.

Knows no command. Imports nothing of ours.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable

# what Python ends with when standard output or error cannot be written at the end
NOT_FLUSHED = 120
# what a shell says of a program that SIGINT has ended
INTERRUPTED = 130


def run_and_end(run: Callable[[], None]) -> None:
    """Run a program, of which this is the first thing that it does, and end its process with the
    exit code that Python would.

    Threads that are no daemons are waited for, what was registered with `atexit` runs (temporary
    folders, clusters, logging), standard output and error are flushed, tracebacks are printed. Only
    objects that are left are not finalised one by one.
    """
    code = [0]

    def end() -> None:
        # after all that was registered later: at the end the last one is called first
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            # closed, or nobody reads it
            except (OSError, ValueError):
                code[0] = code[0] or NOT_FLUSHED
        os._exit(code[0])

    atexit.register(end)
    try:
        run()
    except SystemExit as stop:
        code[0] = _number(stop.code)
        raise
    # the interpreter prints it, and then comes to its end
    except BaseException as error:
        code[0] = INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
        raise


def _number(code: object) -> int:
    """The exit code of a SystemExit: Python prints what is no number, and ends with 1."""
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1
