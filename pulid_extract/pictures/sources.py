"""The pictures of one command line: files, folders and standard input, each picture once. Reads
bytes, decodes nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pulid_extract.pictures.portrait import pictures_in, read_portrait_bytes
from pulid_extract.shared.errors import UsageError

# names of skipped files in one line
MAX_SKIPPED_NAMES = 5


@dataclass(frozen=True)
class Source:
    """One picture."""

    # its name for messages
    where: str
    # as it was given, "-" for standard input
    path: str
    data: bytes

    @property
    def sha256(self) -> str:
        """Lower-case hex."""
        return hashlib.sha256(self.data).hexdigest()


def expand(given: Sequence[str], log: Callable[[str], None]) -> list[str]:
    """The files that --portrait names: a folder stands for the pictures in it, in the order of
    their names.

    Says what of a folder is skipped. Raises InputError for a folder without a picture.
    """
    paths: list[str] = []
    for path in given:
        # which, unlike Path, takes a name of any length
        if path == "-" or not os.path.isdir(path):
            paths.append(path)
            continue
        pictures, skipped = pictures_in(path)
        if skipped:
            names = [item.name for item in skipped[:MAX_SKIPPED_NAMES]]
            if len(skipped) > MAX_SKIPPED_NAMES:
                names.append("...")
            count = f"{len(skipped)} of {len(pictures) + len(skipped)}"
            log(f"{path}: {count} skipped, not pictures by their names: {', '.join(names)}")
        paths += [str(picture) for picture in pictures]
    return paths


def read_sources(
    paths: Sequence[str], log: Callable[[str], None], flag: str = "--portrait"
) -> list[Source]:
    """Every picture's bytes; the same picture twice counts once, and is said. flag: what named
    them. Raises InputError, UsageError.
    """
    if list(paths).count("-") > 1:
        raise UsageError(f"{flag} -: standard input was named twice; it holds one picture")
    sources: dict[str, Source] = {}
    for path in paths:
        data, where = read_portrait_bytes(path, flag)
        source = Source(where, path, data)
        first = sources.setdefault(source.sha256, source)
        if first is not source:
            log(f"{where}: is the same picture as {first.where}; it counts once")
    return list(sources.values())
