"""Visitors of the studio: a session for each browser, a folder for each session, and whether it has
shown a key. Imports no torch.

The cookie is the only thing that opens a session; on the disk stands its hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import shutil
import threading
import time
from pathlib import Path

from pulid_extract.shared.writing import make_folder
from pulid_generate.server.failures import RefusedError
from pulid_generate.server.settings import MAX_SESSIONS, SESSION_SECONDS
from pulid_generate.server.work.queue import IDENTITIES

COOKIE = "pulid_session"
TOKEN = re.compile(r"[0-9a-f]{64}")
# folder of jobs that belong to no session
NOBODY = "requests"


class Visitors:
    """Safe between threads."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._seen: dict[str, float] = {}
        self._with_key: set[str] = set()
        self._lock = threading.Lock()

    def new_token(self) -> str:
        """A cookie's value for a new session. Raises RefusedError if there are too many."""
        with self._lock:
            if len(self._seen) >= MAX_SESSIONS:
                self._drop_unused()
            token = secrets.token_hex(32)
            self._seen[_name_of(token)] = time.time()
        return token

    def _drop_unused(self) -> None:
        """Make room: the session that was seen longest ago of those that have stored nothing.
        Anybody can open the page, and nobody shall keep others out by that.
        """
        for name in sorted(self._seen, key=lambda name: self._seen[name]):
            if not (self.folder / name).is_dir():
                del self._seen[name]
                self._with_key.discard(name)
                return
        raise RefusedError(503, "too many sessions are open; try again later")

    def name(self, token: str | None) -> str | None:
        """The session that a cookie opens: its name, which is that of its folder. None for what is
        no session's.
        """
        if token is None or not TOKEN.fullmatch(token):
            return None
        name = _name_of(token)
        with self._lock:
            if name in self._seen or (self.folder / name).is_dir():
                self._seen[name] = time.time()
                return name
        return None

    def has_key(self, token: str | None) -> bool:
        return token is not None and _name_of(token) in self._with_key

    def give_key(self, token: str) -> None:
        """This session has shown a key."""
        self._with_key.add(_name_of(token))

    def folder_of(self, name: str | None) -> Path:
        """Of a session's jobs, or of those that belong to none. Raises OutputError."""
        return make_folder(self.folder / (name or NOBODY), mode=0o700)

    def identities_of(self, name: str) -> Path:
        """Of the identities that a session saved; may not be there."""
        return self.folder / name / IDENTITIES

    def delete(self, name: str) -> None:
        """Everything of a session that is on the disk."""
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def forget_old(self) -> list[str]:
        """Sessions that are over: their names."""
        now = time.time()
        with self._lock:
            over = [name for name, seen in self._seen.items() if now - seen > SESSION_SECONDS]
            for name in over:
                del self._seen[name]
                self._with_key.discard(name)
        return over

    def delete_empty(self) -> None:
        """Folders in which nothing is left, when the server ends."""
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):
                path.rmdir()

    def delete_identities(self) -> None:
        """Those of all sessions, when the server ends."""
        for path in self.folder.glob(f"*/{IDENTITIES}"):
            shutil.rmtree(path, ignore_errors=True)


def _name_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()[:32]
