"""Files that rows read: remembered until they change, and kept from being overwritten."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pulid_extract.shared.file_names import path_of
from pulid_generate.errors import OutputError

# Files: identities of 0.3 MB each, and hashes of LoRAs
REMEMBERED = 64


class CachedReader:
    """What was read of a file, until the file changes. At most `REMEMBERED` of them; the longest
    unused go first.
    """

    def __init__(self, read: Callable[[Any], Any]):
        self._read = read
        self._known: OrderedDict[tuple[object, ...], Any] = OrderedDict()

    def __call__(self, name: Any) -> Any:
        """Raises what `read` raises."""
        try:
            seen = path_of(name).stat()
        except OSError:
            return self._read(name)  # which says what is wrong
        key = str(name), seen.st_size, seen.st_mtime_ns, seen.st_ino
        if key not in self._known:
            self._known[key] = self._read(name)
        self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return self._known[key]


class InputFiles:
    """Files that rows read, so that no picture takes the place of one. By inode: links and
    spellings of a name are one file.
    """

    def __init__(self) -> None:
        self._inodes: set[tuple[int, int]] = set()
        self._seen: set[Path] = set()

    def add(self, paths: Iterable[Path]) -> None:
        """A folder stands for the files in it."""
        for path in paths:
            if path in self._seen:
                continue
            self._seen.add(path)
            for file in path.iterdir() if path.is_dir() else [path]:
                inode = _inode(file)
                if inode is not None:
                    self._inodes.add(inode)

    def check(self, output: Path) -> None:
        """Raise OutputError for an output that is one of them."""
        if _inode(output) in self._inodes:
            raise OutputError(f"{output}: is read as an input; give another name")


def _inode(path: Path) -> tuple[int, int] | None:
    """None for a file that is not there."""
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_dev, seen.st_ino
