"""`pulid-extract worker`: a process of its own that keeps its networks, a line of JSON in and one
out. Imports no torch.

The stages share files, not code. Knows no task.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from pulid_extract.shared.json_text import read_object
from pulid_generate.errors import ScoringError
from pulid_generate.pictures.scorer import ERROR, PROGRAM, program

# seconds that it may take to end once its input has ended
END_SECONDS = 5


class ExtractProcess:
    """Started when it is first asked, and again if it has ended. For one thread at a time."""

    def __init__(self, flags: Sequence[str], log: Callable[[str], None] | None = None):
        """flags: of `pulid-extract worker`. log: gets the process's lines; None drops them."""
        self.flags, self.log = flags, log
        self._child: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._readers: list[threading.Thread] = []
        self._last: deque[str] = deque(maxlen=1)

    def ask(self, task: Mapping[str, Any], timeout: float | None = None) -> dict[str, Any]:
        """The answer to one task, whatever it says. timeout: seconds; None waits.

        Raises PackageError if there is no such program, ScoringError if it gives no answer, and
        TimeoutError; after these two it is gone.
        """
        child = self._start()
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(task) + "\n")
            child.stdin.flush()
            answer = self._answers.get(timeout=timeout)
        except OSError:
            answer = None
        except queue.Empty:
            self.stop()
            raise TimeoutError from None
        if answer is None:
            self.stop()
            last = self._last[0].removeprefix(ERROR) if self._last else "ended without an answer"
            raise ScoringError(f"{PROGRAM} worker: {last}")
        try:
            return read_object(answer)
        except ValueError:
            self.stop()
            raise ScoringError(f"{PROGRAM} worker: gave an answer that is not its JSON") from None

    def stop(self) -> None:
        """Let it go; a later task starts another."""
        child, self._child = self._child, None
        if child is None:
            return
        if child.stdin is not None:
            with contextlib.suppress(OSError):
                child.stdin.close()
        try:
            child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for reader in self._readers:
            reader.join(END_SECONDS)

    def _start(self) -> subprocess.Popen[str]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        self.stop()
        try:
            child = subprocess.Popen(
                [*program(), "worker", *self.flags],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if self.log is None else subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                # a Ctrl-C at the terminal is for this program to handle
                start_new_session=True,
            )
        except OSError as error:
            raise ScoringError(
                f"{PROGRAM} worker: cannot be run ({error.strerror or error})"
            ) from None
        self._child, self._answers, self._last = child, queue.Queue(), deque(maxlen=1)
        assert child.stdout is not None
        self._readers = [_reading(_put_answers, child.stdout, self._answers)]
        if child.stderr is not None and self.log is not None:
            self._readers.append(_reading(_pass_on, child.stderr, self._last, self.log))
        return child


def _reading(read: Callable[..., None], stream: IO[str], *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=read, args=(stream, *arguments), daemon=True)
    thread.start()
    return thread


def _put_answers(stream: IO[str], answers: queue.Queue[str | None]) -> None:
    with stream:
        for line in stream:
            answers.put(line)
    answers.put(None)


def _pass_on(stream: IO[str], last: deque[str], log: Callable[[str], None]) -> None:
    """The last line is why the program ended, if it does."""
    with stream:
        for text in stream:
            if line := text.rstrip():
                last.append(line)
                log(line)
