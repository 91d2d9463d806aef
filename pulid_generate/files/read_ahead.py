"""Model files into the system's page cache while the libraries load: the disk has nothing to do
then, and afterwards weights are mapped without waiting for it.

Knows files' sizes and nothing of what is in them. Imports no torch.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable
from pathlib import Path

import psutil

# bytes that the system is asked for at a time
WINDOW = 1 << 26
# of free memory: what is read must not push out what is needed
SHARE = 0.5


def read_ahead(paths: Iterable[Path]) -> threading.Thread | None:
    """Ask for these files in this order, in a thread that no program waits for. Only where the
    system takes such advice, and as far as there is memory for it; what cannot be read is left to
    whoever loads it.
    """
    if not hasattr(os, "posix_fadvise"):
        return None
    room = int(psutil.virtual_memory().available * SHARE)
    thread = threading.Thread(
        target=_advise, args=(list(paths), room), name="read-ahead", daemon=True
    )
    thread.start()
    return thread


def _advise(paths: list[Path], room: int) -> None:
    for path in paths:
        with contextlib.suppress(OSError), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > room:
                return
            room -= size
            for start in range(0, size, WINDOW):
                os.posix_fadvise(file.fileno(), start, WINDOW, os.POSIX_FADV_WILLNEED)
