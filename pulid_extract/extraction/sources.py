"""The portraits of one command line: files, folders and standard input, each picture once. Reads
bytes, decodes nothing.

numpy is imported only once there is work to do.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pulid_extract.shared.errors import InputError

SHOWN = 5  # names of skipped files in one line


@dataclass(frozen=True)
class Source:
    """One picture. where: its name for messages. path: as it was given, "-" for standard input."""

    where: str
    path: str
    data: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def expand(given: Sequence[str], log: Callable[[str], None]) -> list[str]:
    """The files that --portrait names: a folder stands for the pictures in it, in the order of
    their names.

    Says what of a folder is skipped. Raises InputError for a folder without a picture.
    """
    from pulid_extract.pictures.portrait import pictures_in

    paths: list[str] = []
    for path in given:
        if path == "-" or not os.path.isdir(path):  # which, unlike Path, takes a name of any length
            paths.append(path)
            continue
        pictures, skipped = pictures_in(path)
        if skipped:
            names = ", ".join(item.name for item in skipped[:SHOWN]) + (
                ", ..." if len(skipped) > SHOWN else ""
            )
            log(
                f"{path}: {len(skipped)} of {len(pictures) + len(skipped)} skipped, no pictures by their names: {names}"
            )
        paths += [str(picture) for picture in pictures]
    return paths


def read_sources(
    paths: Sequence[str], log: Callable[[str], None], flag: str = "--portrait"
) -> list[Source]:
    """Every picture's bytes; the same picture twice counts once, and is said. flag: what named
    them. Raises InputError.
    """
    from pulid_extract.pictures.portrait import read_portrait_bytes

    if list(paths).count("-") > 1:
        raise InputError(f"{flag} -: standard input was named twice; it holds one picture")
    sources: dict[str, Source] = {}
    for path in paths:
        data, where = read_portrait_bytes(path, flag)
        source = Source(where, path, data)
        first = sources.setdefault(source.sha256, source)
        if first is not source:
            log(f"{where}: is the same picture as {first.where}; it counts once")
    return list(sources.values())
