"""TODO"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pulid_extract.batch.journal import Journal
from pulid_extract.batch.rows import Planned
from pulid_extract.extraction.ahead import ahead
from pulid_extract.extraction.embedding_cache import Key
from pulid_extract.extraction.job import (
    Cut,
    Job,
    Made,
    cut,
    decoded,
    make,
    portraits_of,
    read_job,
    together_of,
)
from pulid_extract.extraction.memory import Memory
from pulid_extract.extraction.opening import find_models
from pulid_extract.extraction.sources import expand
from pulid_extract.files.model_set import needed_roles
from pulid_extract.flags.batch import BatchFlags
from pulid_extract.flags.extract import ONE_PICTURE
from pulid_extract.shared.errors import InputError, PulidError, WeightsError
from pulid_extract.shared.model_files import Found
from pulid_extract.shared.writing import write_atomically

if TYPE_CHECKING:
    from pulid_extract.extraction.extractor import Extractor


AHEAD = 2  # rows that are cut before they are wanted: one in work and one in hand


@dataclass(frozen=True)
class Elsewhere:
    """The outcome of a row whose work is for others."""


@dataclass
class Prepared:
    """A row after its first half. outcome: what the second half goes on with; a str: the SHA-256 of
    what is there already.
    """

    planned: Planned
    outcome: Cut | Made | str | PulidError | Elsewhere
    job: Job | None = None
    key: Key | None = None
    seconds: float = 0.0


class Networks:
    """What is loaded once for all rows; torch with the first that needs it. worked: whether they
    ever did.
    """

    def __init__(self, found: dict[str, Found], device: str):
        self.found, self.device, self.worked = found, device, False
        self.stack = contextlib.ExitStack()

    @cached_property
    def extractor(self) -> Extractor:
        import torch

        from pulid_extract.extraction.extractor import Extractor

        # The Extractor sets and restores these for each stage; here around both threads, so that
        # neither restores what the other needs.
        self.stack.enter_context(
            torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            )
        )
        return Extractor(self.found, self.device)

    def cut(self, job: Job) -> Cut:
        """The first half of the work. One thread at a time: `crop` alone reads the options."""
        from pulid_extract.extraction.identity import Options

        flags = job.flags
        self.extractor.options = Options(
            flags.aligner, flags.parser, flags.det_threshold or Options.det_threshold
        )
        return cut(job, decoded(job), self.extractor, _say_nothing)

    def make(self, outcome: Cut, memory: Memory) -> Made:
        """The second half."""
        made = make(outcome, self.extractor, memory.provenance)
        self.worked = True
        return made


class Batch:
    """The rows, and where their results go. Raises WeightsError for a model file that is
    missing.
    """

    def __init__(self, flags: BatchFlags, planned: Sequence[Planned], out_dir: Path):
        self.flags, self.planned, self.out_dir = flags, planned, out_dir
        # with --ray the device is that of workers on other machines
        here = flags if flags.ray is None else replace(flags, device="auto")
        found = find_models(here, set[str]().union(*map(roles_of, planned)))
        self.networks = Networks(found, flags.device)
        self.memory = Memory(found, flags.device, flags.no_cache)
        self.journal = Journal(out_dir)

    def reports(self) -> Iterator[dict[str, Any]]:
        """One for each row, in their order. Raises WeightsError for networks that never worked,
        OutputError for the journal.
        """
        with self.networks.stack:
            for prepared in ahead(
                lambda planned: self.prepare(planned, self.networks.cut), self.planned, AHEAD
            ):
                yield self.finish(prepared)

    def prepare(self, planned: Planned, first: Callable[[Job], Cut | Elsewhere]) -> Prepared:
        """The first half: read, look whether it is there already, find the face (`first`). In the
        second thread.
        """
        prepared = Prepared(planned, "")
        start = time.perf_counter()
        try:
            flags = planned.flags
            paths = expand(flags.portrait or [], _say_nothing)
            self._check_count(planned, len(paths))
            job = prepared.job = read_job(paths, flags, planned.choice, planned.boxes, _say_nothing)
            key = prepared.key = self.memory.key(job, roles_of(planned))
            done = self.flags.resume and self.journal.done(planned.output, key.name)
            prepared.outcome = done or self.memory.recall(job, key, _say_nothing) or first(job)
        except PulidError as error:
            prepared.outcome = error
        except Exception as error:
            prepared.outcome = unexpected(planned.name, error)
        prepared.seconds = time.perf_counter() - start
        return prepared

    def _check_count(self, planned: Planned, count: int) -> None:
        """As rows.py does for what a row names; only now folders among it are counted."""
        for name in ONE_PICTURE if count > 1 else ():
            if getattr(planned.flags, name):
                raise InputError(
                    f"{planned.name}: {name} is about the pixels of one portrait; {count} are named"
                )

    def finish(self, prepared: Prepared) -> dict[str, Any]:
        """The second half: encode, write, and only then say so."""
        planned, outcome = prepared.planned, prepared.outcome
        start = time.perf_counter()
        made, error = None, outcome if isinstance(outcome, PulidError) else None
        try:
            if isinstance(outcome, Cut):
                made = self.networks.make(outcome, self.memory)
            elif isinstance(outcome, Made):
                made = outcome
            if made is not None:
                write_atomically(self.out_dir / planned.output, made.data, mode=0o600)
                if prepared.key is not None:
                    self.memory.keep(prepared.key, made)
        except PulidError as failure:
            error = failure
        except Exception as failure:
            error = unexpected(planned.name, failure)
        if isinstance(error, WeightsError) and not self.networks.worked:
            raise error  # not the photo's fault: it would be the same for every row
        sha256 = outcome if isinstance(outcome, str) else None
        if made is not None and error is None and prepared.key is not None:
            sha256 = hashlib.sha256(made.data).hexdigest()
            self.journal.add(planned.output, prepared.key.name, sha256)
        seconds = round(prepared.seconds + time.perf_counter() - start, 3)
        return self._report(
            prepared,
            made if error is None else None,
            sha256 if error is None else None,
            error,
            seconds,
        )

    def _report(
        self,
        prepared: Prepared,
        made: Made | None,
        sha256: str | None,
        error: PulidError | None,
        seconds: float,
    ) -> dict[str, Any]:
        planned = prepared.planned
        status = (
            "failed"
            if error
            else "skipped"
            if made is None
            else "cached"
            if made.cached
            else "done"
        )
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
        one = (
            {name: portraits[0][name] for name in ("face", "box", "score", "faces", "quality")}
            if len(portraits) == 1
            else {}
        )
        return {
            **report,
            **one,
            "portraits": portraits,
            **together_of(prepared.job, made),
            "tokens": made.facts["tokens"],
        }


def unexpected(name: str, error: Exception) -> PulidError:
    """One bad photo never stops the rest, not even by a mistake of ours or for want of memory."""
    return InputError(
        f"{name}: {type(error).__name__}: {error}; if this is no lack of memory, please report it"
    )


def roles_of(planned: Planned) -> set[str]:
    return needed_roles(planned.choice.detects, planned.flags.aligner, planned.flags.parser)


def _say_nothing(line: str) -> None:
    """Quality and warnings of a row are in its line of results."""
