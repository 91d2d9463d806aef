"""Locks on files and folders that go with the process, however it ends. Knows nothing of what is
locked.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path


def try_lock(handle: int) -> bool:
    """Whether what the descriptor has open is this process's alone from now on, for as long as it
    stays open. True as well where there are no such locks: on Windows, on some network disks.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[bool]:
    """Whether the folder is this process's alone within `with`; see `try_lock`."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    # Windows opens no folders
    except OSError:
        yield True
        return
    try:
        yield try_lock(handle)
    finally:
        os.close(handle)
