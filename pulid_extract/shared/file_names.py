"""File names as people, manifests and journals write them. Touches no disk.

"~" and "~name" mean what a shell means by them; what can be the name of no file is refused by one
line, before some call further in fails on it.
"""

from __future__ import annotations

from pathlib import Path

from pulid_extract.shared.errors import InputError

# bytes that Linux and macOS take between two slashes, and in all
MAX_PART, MAX_PATH = 255, 4095
# characters in a message
SHOWN = 60


def path_of(name: str | Path) -> Path:
    """The path that a name means. Raises InputError for a NUL byte, for characters that are none,
    for names that are too long, and for the home of somebody who is not there.
    """
    text = str(name)
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}.."
    if "\0" in text:
        raise InputError(f"{shown!r}: holds a NUL byte, which no file's name can")
    try:
        # bytes that are no UTF-8 are names as well
        text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise InputError(f"{shown!r}: holds half a character, which no file's name can") from None
    try:
        path = Path(name).expanduser()
    except RuntimeError:
        user = text.split("/")[0][1:SHOWN]
        raise InputError(
            f"{shown}: nobody here is called {user!r}; write the whole name of the folder"
        ) from None
    encoded = str(path).encode(errors="surrogateescape")
    if len(encoded) > MAX_PATH or max(map(len, encoded.split(b"/"))) > MAX_PART:
        raise InputError(
            f"{shown!r}: is longer than a file's name can be ({MAX_PART} bytes between two slashes)"
        )
    return path
