"""What a batch has finished, so that the next one can skip it: one line for each output, by content
and never by time or name alone.

A line is written only after its output is whole and on disk; a line that a killed process left torn
counts for nothing, and costs that one row. Holds hashes and output names, none of a portrait's.
Knows nothing of pictures or networks.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from pulid_extract.shared.errors import OutputError
from pulid_extract.shared.json_text import read_object

NAME = ".pulid-batch.jsonl"


@dataclass(frozen=True)
class _Entry:
    """What one line says of its output."""

    key: str
    sha256: str


class Journal:
    """The journal of one output folder. A key is the hash of everything that decides an output's
    bytes (`embedding_cache.Key.name`).
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / NAME
        self._entries = _read(self.path)

    def done(self, output: str, key: str) -> str | None:
        """The SHA-256 of the output, if it was made with this key and still is what it was."""
        entry = self._entries.get(output)
        if entry is None or entry.key != key:
            return None
        try:
            with open(self.folder / output, "rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None
        return sha256 if sha256 == entry.sha256 else None

    def add(self, output: str, key: str, sha256: str) -> None:
        """Call it when the output is written. Raises OutputError."""
        line = json.dumps({"output": output, "key": key, "sha256": sha256}) + "\n"
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(handle, "r+b", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                if end and os.pread(handle, 1, end - 1) != b"\n":  # torn by a kill
                    line = f"\n{line}"
                left = line.encode()
                # a disk that fills up takes a part of it, and says so the next time
                while left:
                    left = left[file.write(left) :]
                os.fsync(handle)
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written ({error.strerror or error})"
            ) from None


def _read(path: Path) -> dict[str, _Entry]:
    """output -> what its last line says. Lines that say nothing are left out."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return {}
    entries = {}
    for line in lines:
        try:
            record = read_object(line)
            entry = _Entry(str(record["key"]), str(record["sha256"]))
            entries[str(record["output"])] = entry
        except (ValueError, KeyError):
            continue
    return entries
