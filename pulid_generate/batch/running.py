"""Drawing the judged rows of a batch: each picture is decoded, written and told of beside the
denoising of the next. Loads nothing by itself; the order of the stages is the engine's.
"""

from __future__ import annotations

import errno
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.interrupts import Interrupts
from pulid_extract.shared.writing import write_atomically
from pulid_generate.assembly.progress import Progress
from pulid_generate.batch.lines import PictureResult, PictureStatus, Result, as_json
from pulid_generate.errors import OutputError, PulidError
from pulid_generate.pictures.saving import encoded
from pulid_generate.pipeline.callers import Caller, Denoised
from pulid_generate.request.job import Job
from pulid_generate.request.prompts.tokens import Prompt
from pulid_generate.rows.items import Item, in_batches

if TYPE_CHECKING:
    from pulid_generate.pipeline.engine import Engine

# Batches that are decoded together, where the autoencoder cannot stay beside Flux
CHUNK = 64
# What a full disk, or a user's full share of one, is called
FULL = (errno.ENOSPC, errno.EDQUOT)


def print_line(result: Result) -> None:
    """One line of results on standard output. Raises OutputError, BrokenPipeError."""
    console.write_line(as_json(result))


class ResultLog:
    """The lines of results, and how many there are of each kind. They may come from several
    threads; `emit` gets them one by one.
    """

    def __init__(
        self,
        expected: int | None,
        progress: Progress,
        emit: Callable[[PictureResult], None] = print_line,
    ):
        """expected: how many there will be, if that is known."""
        self.expected, self.progress, self.emit = expected, progress, emit
        self.counts: dict[PictureStatus, int] = {"done": 0, "failed": 0, "skipped": 0}
        self._lock = threading.Lock()
        self._started = time.monotonic()

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def report(self, result: PictureResult) -> None:
        """Emit one line of results. Raises what `emit` raises."""
        with self._lock:
            self.counts[result.status] += 1
            self.emit(result)
            if result.error is not None:
                console.complain(f"row {result.row}: {result.error}")
            elif result.status == "done":
                self.progress.log(f"row {result.row}: {result.output}{self._pace()}")

    def _pace(self) -> str:
        done = self.total - self.counts["skipped"]
        if self.expected is None or not done:
            return ""
        left = (time.monotonic() - self._started) / done * (self.expected - self.total)
        return f" ({self.total} of {self.expected}, about {left / 60:.0f} min left)"

    def summary(self) -> str:
        """One line: "3 pictures: 2 done, 1 failed"."""
        kinds = [f"{count} {status}" for status, count in self.counts.items() if count]
        total = self.expected if self.expected is not None else self.total
        return f"{total} pictures: {', '.join(kinds) or 'none drawn'}"


class PictureWriter:
    """What becomes of a batch's pictures: a file, and then a line of results."""

    def __init__(self, log: ResultLog):
        self.log = log
        # The error that stopped it because there is no room left to write
        self.full: OutputError | None = None

    def skipped(self, item: Item, sha256: str | None) -> None:
        """An earlier run has drawn it. sha256: of its file."""
        self.log.report(_result("skipped", item, sha256=sha256))

    def drawn(self, item: Item, data: bytes, arithmetic: str, seconds: float) -> None:
        """Write the file, and only then say so. arithmetic: in what the models computed. seconds:
        that it took until now.
        """
        if self.full is not None:  # it would be said again
            return
        started = time.perf_counter()
        try:
            write_atomically(item.path, data)
        except OutputError as error:
            self.failed(item, error)
            if getattr(error.__context__, "errno", None) in FULL:
                self.full = error
            return
        seconds += time.perf_counter() - started
        sha256 = hashlib.sha256(data).hexdigest()
        more = {"sha256": sha256, "arithmetic": arithmetic, "seconds": seconds}
        self.log.report(_result("done", item, **more))

    def failed(self, item: Item, error: object) -> None:
        self.log.report(_result("failed", item, error=str(error)))


class BatchRun(Caller[Item]):
    """Draws items, and hands each to a writer. Everything but `finish` belongs to one thread at a
    time.
    """

    def __init__(
        self,
        find: Callable[[Item], Job],
        engine: Engine,
        writer: PictureWriter,
        interrupts: Interrupts,
    ):
        """find: gives an item's job; raises PulidError for one whose files are not any more what
        they were.
        """
        self.find, self.engine = find, engine
        self.writer, self.interrupts = writer, interrupts

    def draw(self, items: Sequence[Item]) -> None:
        """Draw until done, interrupted or out of room; every picture that was begun is finished.
        Those that an earlier run has drawn are skipped. Raises PulidError for what stops all.
        """
        for item in items:
            if item.done is not None:
                self.writer.skipped(item, item.done)
        batches = in_batches([item for item in items if item.done is None], self.engine.batch)
        finishing: deque[Future[None]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="decode") as decoder:
            for denoised in self.engine.draw(batches, self, CHUNK):
                if not self.engine.decodes_beside:
                    self.finish(denoised)
                    continue
                finishing.append(decoder.submit(self.finish, denoised))
                # their latents are memory
                while len(finishing) > 2 * self.engine.batch:
                    finishing.popleft().result()
            with self.interrupts.working():
                for picture in finishing:
                    picture.result()

    def finish(self, denoised: Denoised[Item]) -> None:
        """Decode, and give it to the writer; in another thread where there is one."""
        if self.writer.full is not None:
            return
        item, started = denoised.item, time.perf_counter()
        try:
            picture = denoised.decode()
            data = encoded(picture, item.path, item.metadata)
        except PulidError as error:
            self.writer.failed(item, error)
        else:
            seconds = denoised.seconds + time.perf_counter() - started
            self.writer.drawn(item, data, picture.arithmetic, seconds)

    # ------------------------------------------------------------------------- what the engine asks

    def prompts(self, item: Item) -> Sequence[Prompt]:
        return item.prompts

    def job(self, item: Item) -> Job:
        return self.find(item)

    def label(self, items: Sequence[Item]) -> str:
        return f"row {', '.join(str(item.number) for item in items)}"

    def failed(self, item: Item, error: PulidError) -> None:
        self.writer.failed(item, error)

    def stopping(self) -> bool:
        return self.interrupts.asked or self.writer.full is not None

    def holding(self) -> AbstractContextManager[object]:
        return self.interrupts.working()


def _result(status: PictureStatus, item: Item, **more: Any) -> PictureResult:
    return PictureResult(
        status,
        row=item.number,
        line=item.line,
        output=None if status == "failed" else str(item.path),
        seed=item.seed,
        identities=item.identities,
        **more,
    )
