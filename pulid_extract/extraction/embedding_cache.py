"""Embeddings that were made before: an encrypted, bounded folder of small files, so that the same
portrait again is instant.

An embedding is biometric data, so an entry can be opened only by who holds the portraits it was
made from: its name and its key are hashes of their bytes together with every option and weight that
shaped it (convergent encryption, Douceur et al., ICDCS 2002; here SHAKE-256 as the stream and keyed
BLAKE2b as the seal). The SHA-256 of a portrait, which a .pulidembd holds, opens nothing. Deleting
the folder loses nothing but time. Safe between processes: files are written beside and renamed, and
what does not open counts as missing. Knows nothing of portraits, networks or command lines beyond
the bytes it is given.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pulid_extract.shared.errors import OutputError
from pulid_extract.shared.json_text import read_object
from pulid_extract.shared.writing import make_folder, write_atomically

ENTRIES = "embeddings"
# of all entries; one of the public shape takes 132 KB, so about 2,000
MAX_BYTES = 256 << 20
MAGIC = b"PULIDEMBCACHE 1\n"
# bytes
NONCE, SEAL = 16, 32
# seconds after which what a killed process left half-written is swept away
STALE = 3600.0


@dataclass(frozen=True)
class Key:
    """Of one entry."""

    # of its file
    name: str
    # 64 bytes that open it; never written anywhere
    secret: bytes


@dataclass(frozen=True)
class Entry:
    """What can be seen of an entry from outside."""

    name: str
    # bytes
    size: int
    # seconds since 1970 of its last use
    used: float


@dataclass(frozen=True)
class CachedExtraction:
    """What an entry holds."""

    # of a .pulidembd
    data: bytes
    # what was found out on the way: JSON values
    facts: dict[str, Any]


def key_of(portraits: Iterable[bytes], settings: Mapping[str, Any]) -> Key:
    """The key of one extraction. portraits: the bytes of each picture, in any order. settings:
    whatever else decides the result, as JSON values. The secret cannot be told from the settings
    and the portraits' SHA-256.
    """
    parts = sorted(hashlib.blake2b(data, person=b"pulid portrait").digest() for data in portraits)
    text = json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()
    secret = hashlib.blake2b(b"".join(parts) + text, person=b"pulid secret").digest()
    return Key(hashlib.blake2b(secret, digest_size=32, person=b"pulid name").hexdigest(), secret)


class EmbeddingCache:
    """The entries of one folder, at most `limit` bytes of them; the longest unused go first."""

    def __init__(self, folder: Path, limit: int = MAX_BYTES):
        """folder: of all caches, see `default_folder`; nothing is made before the first `put`."""
        self.folder = folder / ENTRIES
        self.limit = limit

    def get(self, key: Key) -> CachedExtraction | None:
        """What was put under this key, or None. An entry that is damaged is deleted."""
        path = self.folder / key.name
        try:
            # a link to a device has no end
            if not path.is_file():
                return None
            sealed = path.read_bytes()
        except OSError:
            return None
        stored = _open(sealed, key)
        with contextlib.suppress(OSError):
            if stored is None:
                path.unlink()
            else:
                os.utime(path)
        return stored

    def forget(self, key: Key) -> None:
        """Drop an entry that opens and means nothing."""
        with contextlib.suppress(OSError):
            (self.folder / key.name).unlink()

    def put(self, key: Key, stored: CachedExtraction) -> None:
        """Keep it, and forget what was not used for longest. Raises OutputError if the folder
        cannot be written.
        """
        sealed = _seal(stored, key)
        make_folder(self.folder, mode=0o700)
        try:
            # the folder may be older than this rule
            self.folder.chmod(0o700)
        except OSError as error:
            raise OutputError(
                f"{self.folder}: cannot be written ({error.strerror or error})"
            ) from None
        write_atomically(self.folder / key.name, sealed, mode=0o600, follow_link=False)
        self._trim(key.name)

    def entries(self) -> list[Entry]:
        """All of them, the last used first."""
        entries = []
        for path in _files(self.folder):
            if path.name.startswith("."):
                continue
            # another process may be trimming
            with contextlib.suppress(OSError):
                status = path.stat()
                entries.append(Entry(path.name, status.st_size, status.st_mtime))
        return sorted(entries, key=lambda entry: (-entry.used, entry.name))

    def clear(self) -> int:
        """Delete every entry and whatever a killed process left; returns how many entries there
        were. Raises OutputError.
        """
        count = len(self.entries())
        try:
            if self.folder.is_dir():
                shutil.rmtree(self.folder)
        except OSError as error:
            raise OutputError(
                f"{self.folder}: cannot be deleted ({error.strerror or error})"
            ) from None
        return count

    def _trim(self, keep: str) -> None:
        total = 0
        # stable: then the last used first
        for entry in sorted(self.entries(), key=lambda entry: entry.name != keep):
            total += entry.size
            if total > self.limit and entry.name != keep:
                (self.folder / entry.name).unlink(missing_ok=True)
        for path in _files(self.folder):
            with contextlib.suppress(OSError):
                if path.name.startswith(".") and time.time() - path.stat().st_mtime > STALE:
                    path.unlink()


def _files(folder: Path) -> Sequence[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _seal(stored: CachedExtraction, key: Key) -> bytes:
    facts = json.dumps(stored.facts, separators=(",", ":")).encode()
    plain = len(facts).to_bytes(8, "little") + facts + stored.data
    nonce = secrets.token_bytes(NONCE)
    hidden = _stream(plain, key, nonce)
    return MAGIC + nonce + _mac(nonce + hidden, key) + hidden


def _open(sealed: bytes, key: Key) -> CachedExtraction | None:
    rest = sealed[len(MAGIC) :]
    nonce, seal, hidden = rest[:NONCE], rest[NONCE:][:SEAL], rest[NONCE + SEAL :]
    if not sealed.startswith(MAGIC) or not secrets.compare_digest(seal, _mac(nonce + hidden, key)):
        return None
    # sealed by whoever had the portraits: another version of this program, say
    plain = _stream(hidden, key, nonce)
    size = int.from_bytes(plain[:8], "little")
    try:
        return CachedExtraction(plain[8 + size :], read_object(plain[8 : 8 + size]))
    except ValueError:
        return None


def _stream(data: bytes, key: Key, nonce: bytes) -> bytes:
    mask = hashlib.shake_256(b"pulid stream" + key.secret + nonce).digest(len(data))
    return (np.frombuffer(data, np.uint8) ^ np.frombuffer(mask, np.uint8)).tobytes()


def _mac(data: bytes, key: Key) -> bytes:
    return hashlib.blake2b(data, key=key.secret, digest_size=SEAL, person=b"pulid seal").digest()
