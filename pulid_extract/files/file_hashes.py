"""SHA-256 of model files, remembered: gigabytes are read once and again only when the file changes.
Knows no model.

A file counts as unchanged while its size, its times of change (ctime cannot be set by hand), its
inode and its device are the same: what git goes by as well (git's
Documentation/technical/racy-git.txt, with its rule for files younger than the clock can tell
apart).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pulid_extract.shared.errors import InputError, OutputError
from pulid_extract.shared.json_text import read_object
from pulid_extract.shared.model_files import ANTELOPEV2_NETWORKS, FoundFile
from pulid_extract.shared.writing import make_folder, write_atomically

MEMORY = "weights.json"
# seconds: a file that changed this recently may change again within one tick of its clock
YOUNG = 2.0


class FileHashes:
    """Hashes by file."""

    def __init__(self, folder: Path | None = None):
        """folder: where they are remembered; None: nowhere."""
        self.path = None if folder is None else folder / MEMORY
        self._known = _read(self.path)

    def known(self, path: Path) -> str | None:
        """The hash, if the file is as it was when it was last read."""
        remembered = self._known.get(_name(path))
        if remembered is None or remembered["mark"] != _mark(path):
            return None
        return remembered["sha256"]

    def of(self, path: Path) -> str:
        """The hash, lower-case hex; reads the file unless it is known. Raises InputError."""
        known = self.known(path)
        if known is not None:
            return known
        mark = _mark(path)
        try:
            with open(path, "rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
        if mark is not None and mark == _mark(path) and time.time() - mark[2] / 1e9 > YOUNG:
            self._known[_name(path)] = {"mark": mark, "sha256": sha256}
            self._write()
        return sha256

    def _write(self) -> None:
        """Best effort: what another process wrote meanwhile is read again later, at worst."""
        if self.path is None:
            return
        remembered = _read(self.path) | self._known
        existing = {name: entry for name, entry in remembered.items() if os.path.exists(name)}
        with contextlib.suppress(OutputError, OSError):
            make_folder(self.path.parent, mode=0o700)
            write_atomically(self.path, json.dumps(existing, indent=1).encode(), mode=0o600)


def files_of(by_role: Mapping[str, FoundFile]) -> dict[str, list[Path]]:
    """role -> the files that are read for it; of an antelopev2 folder the two that are used.
    by_role: role -> its file or folder.
    """
    files = {}
    for role, file in sorted(by_role.items()):
        files[role] = _inside(file.path) if file.path.is_dir() else [file.path]
    return files


def _inside(folder: Path) -> list[Path]:
    published = [folder / name for name in ANTELOPEV2_NETWORKS if (folder / name).is_file()]
    return (
        published if len(published) == len(ANTELOPEV2_NETWORKS) else sorted(folder.glob("*.onnx"))
    )


def _name(path: Path) -> str:
    return str(path.resolve())


def _mark(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]


def _read(path: Path | None) -> dict[str, Any]:
    """What is remembered; nothing if the file is missing or damaged."""
    try:
        known = read_object(path.read_bytes()) if path is not None else {}
    except (OSError, ValueError):
        return {}
    entries = {}
    for name, entry in known.items():
        if isinstance(entry, dict) and {"mark", "sha256"} <= entry.keys():
            entries[name] = entry
    return entries
