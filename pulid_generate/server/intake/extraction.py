"""Portraits: asks `pulid-extract worker`, a process of its own that keeps its models. Imports no
torch.

The stages share files, not code. Where the other stage is not installed, requests with portraits
are refused by a sentence that says so, and the rest works.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from pulid_generate.errors import InputError, PackageError, ScoringError
from pulid_generate.pictures.extract_process import ExtractProcess
from pulid_generate.pictures.scorer import PROGRAM, program
from pulid_generate.server.failures import RefusedError
from pulid_generate.server.settings import EXTRACTION_SECONDS, MAX_EXTRACTIONS


class ExtractWorker:
    """One process, started when it is first wanted, and again if it has died. Safe between threads;
    requests take turns.
    """

    def __init__(self, flags: Sequence[str]):
        self._turn = threading.Lock()
        self._waiting = threading.BoundedSemaphore(MAX_EXTRACTIONS)
        # what it says of portraits is in its answers, and in no log
        self._process = ExtractProcess(flags)

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
        try:
            return self._process.ask(line, EXTRACTION_SECONDS)
        except TimeoutError:
            why = f"{PROGRAM} worker: no answer in {EXTRACTION_SECONDS:.0f} seconds"
        except ScoringError as error:
            why = str(error)
        raise RefusedError(503, f"{why}; try again")

    def stop(self) -> None:
        """Let it go; a later task starts another."""
        self._process.stop()
