"""Portraits: asks `pulid-extract worker`, a process of its own that keeps its models. Imports no
torch.

The stages share files, not code. Where the other stage is not installed, requests with portraits
are refused by a sentence that says so, and the rest works.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from pulid_extract.shared.json_text import read_object
from pulid_generate.errors import InputError, PackageError
from pulid_generate.pictures.scorer import PROGRAM, program
from pulid_generate.server.failures import RefusedError
from pulid_generate.server.settings import EXTRACTION_SECONDS, MAX_EXTRACTIONS


class ExtractWorker:
    """One process, started when it is first wanted, and again if it has died. Safe between threads;
    requests take turns.
    """

    def __init__(self, flags: Sequence[str]):
        self.flags = flags
        self._turn = threading.Lock()
        self._waiting = threading.BoundedSemaphore(MAX_EXTRACTIONS)
        self._child: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str | None] = queue.Queue()

    def missing(self) -> str | None:
        """Why there is none: a sentence; None if there is one."""
        try:
            program()
        except PackageError:
            return (
                f"portraits are read by {PROGRAM}, which is not installed here; run: "
                "pip install 'pulid-flux-toolkit[extract]', or send a .pulidembd"
            )
        return None

    def ask(self, task: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """What came of one task, as the worker's documentation has it.

        Raises InputError with the program's sentence, PackageError, and RefusedError if too many
        wait or it takes too long.
        """
        if missing := self.missing():
            raise PackageError(missing)
        if not self._waiting.acquire(blocking=False):
            raise RefusedError(
                429, "too many portraits are being read; try again", {"Retry-After": "10"}
            )
        try:
            with self._turn:
                answer = self._ask({"task": task} | dict(fields))
        finally:
            self._waiting.release()
        if answer.get("status") != "done":
            raise InputError(str(answer.get("error") or f"{PROGRAM} worker: gave no reason"))
        return answer

    def _ask(self, line: Mapping[str, Any]) -> dict[str, Any]:
        child = self._start()
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(line) + "\n")
            child.stdin.flush()
            answer = self._answers.get(timeout=EXTRACTION_SECONDS)
        except OSError:
            answer = None
        except queue.Empty:
            self.stop()
            raise RefusedError(
                503, f"{PROGRAM} worker: no answer in {EXTRACTION_SECONDS:.0f} seconds; try again"
            ) from None
        if answer is None:
            self.stop()
            raise RefusedError(503, f"{PROGRAM} worker: has ended without an answer; try again")
        try:
            return read_object(answer)
        except ValueError:
            self.stop()
            raise RefusedError(
                503, f"{PROGRAM} worker: gave an answer that is not its JSON"
            ) from None

    def _start(self) -> subprocess.Popen[str]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        answers: queue.Queue[str | None] = queue.Queue()
        # what it says of portraits is in its answers, and in no log
        child = subprocess.Popen(
            [*program(), "worker", *self.flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            # a Ctrl-C at the terminal is for the server to handle
            start_new_session=True,
        )
        threading.Thread(target=_read, args=(child, answers), daemon=True).start()
        self._child, self._answers = child, answers
        return child

    def stop(self) -> None:
        """Let it go; a later task starts another."""
        child, self._child = self._child, None
        if child is None:
            return
        if child.stdin is not None:
            with contextlib.suppress(OSError):
                child.stdin.close()
        try:
            child.wait(2)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _read(child: subprocess.Popen[str], answers: queue.Queue[str | None]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        answers.put(line)
    answers.put(None)
