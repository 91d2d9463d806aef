"""Drawing the judged rows of a batch: denoise, decode and write beside the next denoise, report.
Loads nothing by itself.
"""

from __future__ import annotations

import errno
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.interrupts import Interrupts
from pulid_extract.shared.writing import write_atomically
from pulid_generate.assembly.progress import Progress
from pulid_generate.batch.lines import PictureResult, Result, Status, as_json
from pulid_generate.errors import OutputError, PulidError
from pulid_generate.rows.items import Item, in_batches, in_groups

if TYPE_CHECKING:
    from torch import Tensor

    from pulid_generate.pipeline.pipeline import Pipeline
    from pulid_generate.pipeline.session import Session
    from pulid_generate.request.job import Job

CHUNK = 64  # batches that are decoded together, where the autoencoder cannot stay beside Flux
FULL = (errno.ENOSPC, errno.EDQUOT)
Pair = tuple[Item, "Job"]
Denoised = tuple[Item, "Job", "Tensor", tuple[int, ...], float]  # T5 tokens; seconds


def print_line(result: Result) -> None:
    """One line of results on standard output. Raises OutputError, BrokenPipeError."""
    console.write_line(as_json(result))


class Tally:
    """The lines of results, and how many there are of each kind. Lines may come from several
    threads; `emit` gets them one by one.
    """

    def __init__(
        self,
        expected: int | None,
        progress: Progress,
        emit: Callable[[PictureResult], None] = print_line,
    ):
        self.expected, self.progress, self.emit = expected, progress, emit
        self.counts: dict[str, int] = {}
        self._lock = threading.Lock()
        self._started = time.monotonic()

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def report(self, result: PictureResult) -> None:
        """Emit one line of results. Raises what `emit` raises."""
        with self._lock:
            self.counts[result.status] = self.counts.get(result.status, 0) + 1
            self.emit(result)
            if result.error is not None:
                console.log(f"row {result.row}: {result.error}")
            elif result.status == "done":
                self.progress.log(f"row {result.row}: {result.output}{self._pace()}")

    def _pace(self) -> str:
        done = self.total - self.counts.get("skipped", 0)
        if self.expected is None or not done:
            return ""
        left = (time.monotonic() - self._started) / done * (self.expected - self.total)
        return f" ({self.total} of {self.expected}, about {left / 60:.0f} min left)"

    def summary(self) -> str:
        kinds = (
            ", ".join(f"{count} {status}" for status, count in sorted(self.counts.items()))
            or "none drawn"
        )
        return f"{self.expected if self.expected is not None else self.total} pictures: {kinds}"


class Outlet:
    """What becomes of pictures: a file and a line of results. full: the error that stopped it
    because there is no room left to write.
    """

    def __init__(self, tally: Tally):
        self.tally = tally
        self.full: OutputError | None = None

    def skipped(self, item: Item, sha256: str | None) -> None:
        self.tally.report(_result("skipped", item, sha256=sha256))

    def drawn(self, item: Item, data: bytes, seconds: float) -> None:
        """Write the file, and only then say so. seconds: that it took until now."""
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
        self.tally.report(
            _result("done", item, sha256=hashlib.sha256(data).hexdigest(), seconds=seconds)
        )

    def failed(self, item: Item, error: object) -> None:
        self.tally.report(_result("failed", item, error=str(error)))


class BatchRun:
    """Draws items, and hands each to an outlet. Everything but `finish` belongs to one thread at a
    time.

    find: gives an item's job; raises PulidError for one whose files are not any more what they
    were.
    """

    def __init__(
        self,
        find: Callable[[Item], Job],
        pipeline: Pipeline,
        session: Session,
        outlet: Outlet,
        interrupts: Interrupts,
    ):
        self.find, self.pipeline, self.session, self.outlet, self.interrupts = (
            find,
            pipeline,
            session,
            outlet,
            interrupts,
        )
        self._waiting: deque[Future[None]] = deque()

    def draw(self, items: Sequence[Item], skipped: Sequence[Item] = ()) -> None:
        """Draw `items` until done, interrupted or out of room; every one that was begun is
        finished. Raises PulidError for what stops all.
        """
        for item in skipped:
            self.outlet.skipped(item, item.done)
        if not items:
            return
        batches = in_batches(items, self.session.batch)
        self.session.encode_prompts(
            list(
                dict.fromkeys(
                    prompt for batch in batches for item in batch for prompt in item.prompts
                )
            )
        )
        beside = self.session.keeps_autoencoder
        with ThreadPoolExecutor(1, thread_name_prefix="decode") as decoder:
            for chunk in in_groups(iter(batches), 1 if beside else CHUNK):
                with self.interrupts.working():
                    self._chunk(chunk, decoder if beside else None)
                if self._stopping():
                    break
            with self.interrupts.working():
                self._wait(0)

    def _stopping(self) -> bool:
        return self.interrupts.asked or self.outlet.full is not None

    def _chunk(self, chunk: Sequence[Sequence[Item]], decoder: ThreadPoolExecutor | None) -> None:
        """Batches after which Flux may leave. decoder: where pictures are finished beside the next
        batch; None: here, at the end.
        """
        held = []
        for drawn in self.denoise(chunk):
            if decoder is None:
                held.append(drawn)
            else:
                self._waiting.append(
                    decoder.submit(self.finish, self.session.load_autoencoder(), *drawn)
                )
                self._wait(2 * self.session.batch)
        if held:
            vae = self.session.load_autoencoder()
            for drawn in held:
                self.finish(vae, *drawn)
            self.session.release()

    def denoise(self, chunk: Sequence[Sequence[Item]]) -> Iterator[Denoised]:
        """Batches, as `finish` takes them, until it is to stop. Their prompts are encoded."""
        for pairs in self._start([pairs for pairs in map(self._load, chunk) if pairs]):
            if self._stopping():
                break
            yield from self._denoise(pairs)

    def _wait(self, most: int) -> None:
        """Until at most so many pictures are waiting to be finished: their latents are memory."""
        while len(self._waiting) > most:
            self._waiting.popleft().result()

    def _load(self, batch: Sequence[Item]) -> list[Pair]:
        """The jobs of the items whose files still are what they were."""
        pairs = []
        for item in batch:
            try:
                pairs.append((item, self.find(item)))
            except PulidError as error:
                self.outlet.failed(item, error)
        return pairs

    def _start(self, loaded: list[list[Pair]]) -> list[list[Pair]]:
        """Encode the pictures to start from; without those whose picture cannot be."""
        try:
            self.session.encode_starts([job for pairs in loaded for _, job in pairs])
        except PulidError as error:
            for pairs in loaded:
                for item, job in pairs:
                    if job.start is not None:
                        self.outlet.failed(item, error)
            loaded = [[pair for pair in pairs if pair[1].start is None] for pairs in loaded]
        return [pairs for pairs in loaded if pairs]

    def _denoise(self, pairs: Sequence[Pair]) -> list[Denoised]:
        """(item, job, latent, T5 tokens, seconds) of those that could be drawn; where a batch
        fails, each of it is tried alone.
        """
        if len(pairs) > 1 and self._differ(pairs):
            return [one for pair in pairs for one in self._denoise([pair])]
        started = time.perf_counter()
        numbers = ", ".join(str(item.number) for item, _ in pairs)
        try:
            drawn = self.session.latents([job for _, job in pairs], f"row {numbers}")
        except PulidError as error:
            if len(pairs) == 1:
                self.outlet.failed(pairs[0][0], error)
                return []
            return [one for pair in pairs for one in self._denoise([pair])]
        seconds = (time.perf_counter() - started) / len(pairs)
        return [
            (item, job, latent, lengths, seconds)
            for (item, job), (latent, lengths) in zip(pairs, drawn, strict=True)
        ]

    def _differ(self, pairs: Sequence[Pair]) -> bool:
        """Whether these cannot share a batch any more: a file that a row reads has changed since it
        was judged.
        """
        from pulid_generate.request.job import batch_key

        return len({batch_key(job, self.pipeline.t5_lengths(job)) for _, job in pairs}) > 1

    def finish(
        self,
        vae: Any,
        item: Item,
        job: Job,
        latent: Tensor,
        t5_lengths: tuple[int, ...],
        seconds: float,
    ) -> None:
        """Decode, and give it to the outlet; in another thread where there is one. vae: the
        session's.
        """
        from pulid_generate.pictures.saving import encoded

        if self.outlet.full is not None:
            return
        started = time.perf_counter()
        try:
            data = encoded(
                self.session.decode(vae, latent, job, t5_lengths), item.path, item.metadata
            )
        except PulidError as error:
            self.outlet.failed(item, error)
        else:
            self.outlet.drawn(item, data, seconds + time.perf_counter() - started)


def _result(status: Status, item: Item, **more: Any) -> PictureResult:
    return PictureResult(
        status,
        row=item.number,
        line=item.line,
        output=None if status == "failed" else str(item.path),
        seed=item.seed,
        identities=item.identities,
        **more,
    )
