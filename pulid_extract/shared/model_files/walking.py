"""What of a models folder is looked at: every file below it, linked folders as well, each folder
once. Hidden names and what an operating system deletes into are left alone. Knows no model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# In lower case: where deleted files wait (of Windows and of network drives), what a Mac's zip
# carries beside the files, and what repairs and indexes leave. Names that begin with a dot, such
# as .Trash-1000, are hidden.
LEFT_ALONE = frozenset(
    (
        "$recycle.bin",
        "#recycle",
        "@recycle",
        "recycler",
        "trash",
        "system volume information",
        "lost+found",
        "@eadir",
        "__macosx",
    )
)


def files_below(folder: Path, unreadable: list[str] | None = None) -> Iterator[Path]:
    """Every file of a folder and of those below it, folder by folder in the order of names.

    Linked folders are entered, after the others; a folder that was entered under another name is
    not entered again, so that no loop is endless. Folders that cannot be read add a message to
    `unreadable`.
    """
    entered: set[tuple[int, int]] = set()
    waiting = [folder]
    links: list[Path] = []
    while waiting or links:
        current = waiting.pop(0) if waiting else links.pop(0)
        try:
            state = current.stat()
            inside = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError as error:
            if unreadable is not None:
                unreadable.append(f"{current}: cannot be read ({error.strerror or error})")
            continue
        # Windows has no inodes on some file systems
        if state.st_ino:
            if (state.st_dev, state.st_ino) in entered:
                continue
            entered.add((state.st_dev, state.st_ino))
        for entry in inside:
            if _is_left_alone(entry.name):
                continue
            path = current / entry.name
            if not entry.is_dir():
                if entry.is_file():
                    yield path
            elif entry.is_symlink():
                links.append(path)
            else:
                waiting.append(path)


def _is_left_alone(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFT_ALONE


def file_identity(path: Path) -> tuple[int, int] | str:
    """The same value for every name of one file: links, hard links, paths through linked folders.
    Raises OSError for a file that is not there.
    """
    state = path.stat()
    if state.st_ino:
        return state.st_dev, state.st_ino
    return os.path.realpath(path)
