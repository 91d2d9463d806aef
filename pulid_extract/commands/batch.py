"""`pulid-extract batch FOLDER|MANIFEST --out-dir DIR`: many extractions with one loaded set of models. Torch only once there is work.

Every row is judged before a file is looked for. Then one thread reads, decodes and cuts out the face of the next rows while this one runs
EVA-CLIP and IDFormer. A row's file is the same, byte for byte, as the single command's: both are made by job.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pulid_extract import console
from pulid_extract.commands.ahead import ahead
from pulid_extract.commands.extract import ONE_PICTURE, Flags
from pulid_extract.commands.job import Cut, Job, Made, cut, decoded, make, portraits_of, read_job, together_of
from pulid_extract.commands.memory import Memory
from pulid_extract.commands.portraits import expand
from pulid_extract.commands.result_lines import ResultLines
from pulid_extract.commands.rows import ENDING, BatchFlags, Planned, plan
from pulid_extract.commands.session import PACKAGES, find_models, quiet
from pulid_extract.embedding_cache import Key
from pulid_extract.errors import InputError, OutputError, PulidError, WeightsError, require_packages
from pulid_extract.journal import Journal
from pulid_extract.model_files import write_atomically
from pulid_extract.model_set import needed_roles
from pulid_extract.records import listed

if TYPE_CHECKING:
    from pulid_extract.extractor import Extractor

AHEAD = 2  # rows that are cut before they are wanted: one in work and one in hand


@dataclass
class Prepared:
    """A row after its first half. outcome: what the second half goes on with; a str: the SHA-256 of what is there already."""

    planned: Planned
    outcome: Cut | Made | str | PulidError
    job: Job | None = None
    key: Key | None = None
    seconds: float = 0.0


def run(flags: BatchFlags) -> None:
    """Make what every row describes. Raises PulidError: before the start for rows that cannot be, at the end if any failed."""
    require_packages(PACKAGES, "extract")
    planned, problems = plan(flags)
    if problems:
        for line in listed(problems):
            console.log(line)
        raise InputError(f"{flags.rows}: {len(problems)} problem{'s' * (len(problems) != 1)}, listed above; nothing was started")
    out_dir = _make_folder(flags.out_dir)
    _sweep(out_dir, planned)
    with ResultLines() as lines, quiet():
        batch = Batch(flags, planned, out_dir)
        counts: dict[str, int] = {}
        with _progress(len(planned)) as advance:
            for report in batch.reports():
                lines.write(json.dumps(report))
                counts[report["status"]] = counts.get(report["status"], 0) + 1
                if report["error"] is not None:
                    console.log(f"row {report['row']}: {report['error']}")
                advance()
    summary = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    console.log(f"{len(planned)} row{'s' * (len(planned) != 1)}: {summary}")
    if counts.get("failed"):
        raise InputError(f"{counts['failed']} of {len(planned)} rows failed, the others are in {out_dir}")


def _make_folder(given: str) -> Path:
    folder = Path(given)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--out-dir {given}: cannot be made ({error.strerror or error})") from None
    return folder


def _sweep(folder: Path, planned: Sequence[Planned]) -> None:
    """Delete what a killed run left half-written beside our own outputs."""
    names = {one.output for one in planned}
    for path in folder.glob(f".*{ENDING}.*.part"):
        if path.name[1:].rsplit(".", 2)[0] in names:
            path.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------------------------- work


class Batch:
    """The rows, and what is loaded once for all of them; torch only if a row is not in the cache. Raises WeightsError for a file that is
    missing."""

    def __init__(self, flags: BatchFlags, planned: Sequence[Planned], out_dir: Path):
        self.flags, self.planned, self.out_dir = flags, planned, out_dir
        self.found = find_models(flags, set[str]().union(*map(_roles, planned)))
        self.memory = Memory(self.found, flags.device, flags.no_cache)
        self.journal = Journal(out_dir)
        self.stack = contextlib.ExitStack()
        self.worked = False

    @cached_property
    def extractor(self) -> Extractor:
        import torch

        from pulid_extract.extractor import Extractor

        # The Extractor sets and restores these for each stage; here around both threads, so that neither restores what the other needs.
        self.stack.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False))
        return Extractor(self.found, self.flags.device)

    def reports(self) -> Iterator[dict[str, Any]]:
        """One for each row, in their order. Raises WeightsError for networks that never worked, OutputError for the journal."""
        with self.stack:
            for prepared in ahead(self._prepare, self.planned, AHEAD):
                yield self._finish(prepared)

    def _prepare(self, planned: Planned) -> Prepared:
        """The first half: read, look whether it is there already, find the face. In the second thread."""
        prepared = Prepared(planned, "")
        start = time.perf_counter()
        try:
            flags = planned.flags
            paths = expand(flags.portrait or [], _say_nothing)
            self._check_count(planned, len(paths))
            job = prepared.job = read_job(paths, flags, planned.choice, planned.boxes, _say_nothing)
            key = prepared.key = self.memory.key(job, _roles(planned))
            prepared.outcome = (self.flags.resume and self.journal.done(planned.output, key.name)) or self._made(job, key)
        except PulidError as error:
            prepared.outcome = error
        except Exception as error:
            prepared.outcome = _unexpected(planned, error)
        prepared.seconds = time.perf_counter() - start
        return prepared

    def _extractor_for(self, flags: Flags) -> Extractor:
        """The one Extractor, with a row's options: `crop` alone reads them, and only this thread crops."""
        from pulid_extract.identity import Options

        self.extractor.options = Options(flags.aligner, flags.parser, flags.det_threshold or Options.det_threshold)
        return self.extractor

    def _made(self, job: Job, key: Key) -> Made | Cut:
        made = self.memory.recall(job, key, _say_nothing)
        return made or cut(job, decoded(job), self._extractor_for(job.flags), _say_nothing)

    def _check_count(self, planned: Planned, count: int) -> None:
        """As rows.py does for what a row names; only now folders among it are counted."""
        for name in ONE_PICTURE if count > 1 else ():
            if getattr(planned.flags, name):
                raise InputError(f"{planned.name}: {name} is about the pixels of one portrait; {count} are named")

    def _finish(self, prepared: Prepared) -> dict[str, Any]:
        """The second half: encode, write, and only then say so."""
        planned, outcome = prepared.planned, prepared.outcome
        start = time.perf_counter()
        made, error = None, outcome if isinstance(outcome, PulidError) else None
        try:
            if isinstance(outcome, Cut):
                made = make(outcome, self.extractor, self.memory.provenance)
                self.worked = True
            elif isinstance(outcome, Made):
                made = outcome
            if made is not None:
                write_atomically(self.out_dir / planned.output, made.data, mode=0o600)
                if prepared.key is not None:
                    self.memory.keep(prepared.key, made)
        except PulidError as failure:
            error = failure
        except Exception as failure:
            error = _unexpected(planned, failure)
        if isinstance(error, WeightsError) and not self.worked:
            raise error  # not the photo's fault: it would be the same for every row
        sha256 = outcome if isinstance(outcome, str) else None
        if made is not None and error is None and prepared.key is not None:
            sha256 = hashlib.sha256(made.data).hexdigest()
            self.journal.add(planned.output, prepared.key.name, sha256)
        seconds = round(prepared.seconds + time.perf_counter() - start, 3)
        return self._report(prepared, made if error is None else None, sha256 if error is None else None, error, seconds)

    def _report(
        self, prepared: Prepared, made: Made | None, sha256: str | None, error: PulidError | None, seconds: float
    ) -> dict[str, Any]:
        planned = prepared.planned
        status = "failed" if error else "skipped" if made is None else "cached" if made.cached else "done"
        report: dict[str, Any] = {
            "row": planned.number,
            "line": planned.line,
            "status": status,
            "portrait": planned.flags.portrait,
            "output": None if error else str(self.out_dir / planned.output),
            "sha256": sha256,
            "error": None if error is None else str(error),
            "seconds": seconds,
        }
        if made is None or prepared.job is None:
            return report
        portraits = portraits_of(prepared.job, made)
        one = {name: portraits[0][name] for name in ("face", "box", "score", "faces", "quality")} if len(portraits) == 1 else {}
        return {**report, **one, "portraits": portraits, **together_of(prepared.job, made), "tokens": made.facts["tokens"]}


def _unexpected(planned: Planned, error: Exception) -> PulidError:
    """One bad photo never stops the rest, not even by a mistake of ours or for want of memory."""
    return InputError(f"{planned.name}: {type(error).__name__}: {error}; if this is no lack of memory, please report it")


def _roles(planned: Planned) -> set[str]:
    return needed_roles(planned.choice.detects, planned.flags.aligner, planned.flags.parser)


def _say_nothing(line: str) -> None:
    """Quality and warnings of a row are in its line of results."""


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error if that is a terminal and the results are not printed there as well; else nothing."""
    if not sys.stderr.isatty() or (sys.__stdout__ is not None and sys.__stdout__.isatty()):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("extracting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("rows", total=total)
        yield lambda: progress.advance(task)
