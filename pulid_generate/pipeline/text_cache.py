"""Encoded prompts on disk: bytes by a key that holds everything they depend on. Knows no model and
no tensor. Imports no torch.

In the user's cache folder beside pulid-extract's, readable by the user alone: prompts are private,
and states can be read back. A kill at any moment leaves whole entries; one that is damaged counts
as missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pulid_extract.shared.cache_folder import FOLDER_VARIABLE
from pulid_extract.shared.errors import OutputError
from pulid_extract.shared.model_files import Header
from pulid_extract.shared.writing import make_folder, write_atomically

ENTRIES = "text"
# 2,000 prompts of 256 tokens in bfloat16
MAX_BYTES = 4 << 30
# Of a model file, for its identity
FIRST_BYTES = 1 << 20
# Seconds after which a half-written file has no writer any more
STALE = 3600


def key_of(facts: Mapping[str, Any]) -> str:
    """The name of an entry: the hash of everything that its bytes depend on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def file_identity(header: Header, path: Path, times: bool = True) -> str:
    """Which file this is, without reading gigabytes: names and shapes, its first MiB, size and time
    of every file it is made of.

    times: False for what a copy on another machine has as well.
    """
    files = {path, *(shard for shard, _ in header.shards.values())}
    digest = hashlib.sha256(repr(sorted(header.tensors.items())).encode())
    for file in sorted(files):
        if file.is_file():
            seen = file.stat()
            digest.update(f"{seen.st_size} {seen.st_mtime_ns if times else ''}".encode())
            with open(file, "rb") as opened:
                digest.update(opened.read(FIRST_BYTES))
    return digest.hexdigest()


class TextCache:
    """The entries of one folder, at most `limit` bytes of them once `trim` has run; the longest
    unused go first.

    folder: None keeps them in memory, for as long as this object lives; so does a folder that
    cannot be written, which `warn` is told of once.
    """

    def __init__(
        self,
        folder: Path | None,
        limit: int = MAX_BYTES,
        warn: Callable[[str], None] = lambda line: None,
    ):
        self.folder = folder / ENTRIES if folder is not None else None
        self.limit, self.warn = limit, warn
        self._here: dict[str, bytes] = {}
        self._is_writable = True

    def __contains__(self, key: str) -> bool:
        return key in self._here or (self.folder is not None and (self.folder / key).is_file())

    def get(self, key: str) -> bytes | None:
        """What was put under this key, or None. A damaged entry is deleted."""
        if self.folder is None or key in self._here:
            return self._here.get(key)
        path = self.folder / key
        try:
            # a link to a device has no end
            if not path.is_file():
                return None
            sealed = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        data = sealed[32:]
        if hashlib.sha256(data).digest() == sealed[:32]:
            return data
        path.unlink(missing_ok=True)
        return None

    def forget(self, key: str) -> None:
        """Drop an entry that opens and means nothing."""
        self._here.pop(key, None)
        if self.folder is not None:
            with contextlib.suppress(OSError):
                (self.folder / key).unlink()

    def put(self, key: str, data: bytes) -> None:
        """Keep it."""
        if self.folder is not None and self._is_writable:
            advice = f"set {FOLDER_VARIABLE}"
            sealed = [hashlib.sha256(data).digest(), data]
            try:
                make_folder(self.folder, advice=advice, mode=0o700)
                write_atomically(self.folder / key, sealed, mode=0o600, follow_link=False)
                return
            # a container's user without a home, a full disk: the pictures do not need it
            except OutputError as error:
                self._is_writable = False
                self.warn(f"the cache of encoded prompts is not used: {error}")
        self._here[key] = data

    def trim(self) -> None:
        """Delete the longest unused entries beyond the limit, and what killed processes left
        half-written.
        """
        if self.folder is None:
            return
        found = []
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                seen = path.stat()
                if not path.name.startswith("."):
                    found.append((seen.st_mtime, seen.st_size, path))
                elif time.time() - seen.st_mtime > STALE:
                    path.unlink(missing_ok=True)
        total = 0
        for _, size, path in sorted(found, reverse=True):
            total += size
            if total > self.limit:
                path.unlink(missing_ok=True)
