"""The work on rows, in two halves that can overlap: read and cut out, then encode and write. Who
does the first half is handed in, so that a worker on a cluster can do both.

A row's file is the same, byte for byte, as the single command's: both are made by
extraction/stages.py. Imports torch only once there is work for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pulid_extract.batch.journal import Journal
from pulid_extract.batch.results import RowResult, RowStatus
from pulid_extract.batch.rows import BatchRow
from pulid_extract.extraction.embedding_cache import Key
from pulid_extract.extraction.job import Job, decoded, read_job
from pulid_extract.extraction.opening import find_models
from pulid_extract.extraction.result_cache import ResultCache
from pulid_extract.extraction.results import ExtractionResult
from pulid_extract.extraction.stages import CroppedPortraits, crop_portraits, encode_identity
from pulid_extract.files.model_set import needed_roles
from pulid_extract.flags.batch import BatchFlags
from pulid_extract.flags.extract import ONE_PORTRAIT
from pulid_extract.pictures.sources import expand
from pulid_extract.shared.background import ahead
from pulid_extract.shared.cli import console
from pulid_extract.shared.errors import InputError, PulidError, WeightsError
from pulid_extract.shared.model_files import FoundFile
from pulid_extract.shared.writing import write_atomically

if TYPE_CHECKING:
    from pulid_extract.extraction.extractor import Extractor

# rows that are cut out before they are wanted: one in work and one in hand
ROWS_AHEAD = 2


@dataclass(frozen=True)
class FinishedBefore:
    """The outcome of a row whose output an earlier run has written."""

    # of the output
    sha256: str


@dataclass(frozen=True)
class ForWorker:
    """The outcome of a row whose work is a worker's."""


Outcome = CroppedPortraits | ExtractionResult | FinishedBefore | ForWorker | PulidError


@dataclass
class PreparedRow:
    """A row after its first half."""

    row: BatchRow
    # what the second half starts from
    outcome: Outcome
    # None if it failed before
    job: Job | None = None
    key: Key | None = None
    # of the first half
    seconds: float = 0.0


class LoadedNetworks:
    """What is loaded once for all rows; torch with the first that needs it."""

    def __init__(
        self,
        files: dict[str, FoundFile],
        device: str,
        fast: bool,
        log: Callable[[str], None] = console.log,
    ):
        """files: role -> its file. device, fast: of the flags with these names. log: gets what is
        noteworthy about this machine.
        """
        self.files, self.device, self.fast, self.log = files, device, fast, log
        # whether a row was ever made with them
        self.have_worked = False
        self.stack = contextlib.ExitStack()

    @cached_property
    def extractor(self) -> Extractor:
        """Made with the first row that needs it."""
        from pulid_extract.extraction.extractor import Extractor
        from pulid_extract.networks.devices import exact_arithmetic

        # The Extractor sets and restores this for each stage; here around both threads, so that
        # neither restores what the other needs.
        self.stack.enter_context(exact_arithmetic())
        # of a row nothing is said here; of the machine, that --fast changes nothing or that a
        # provider does not start
        extractor = Extractor(self.files, self.device, log=self.log, fast=self.fast)
        extractor.log = _say_nothing
        return extractor

    def crop(self, job: Job) -> CroppedPortraits:
        """The first half of the work. One thread at a time: `crop` alone reads the options."""
        from pulid_extract.extraction.identity import Options

        flags = job.flags
        threshold = flags.det_threshold or Options.det_threshold
        self.extractor.options = Options(flags.aligner, flags.parser, threshold)
        return crop_portraits(job, decoded(job), self.extractor, _say_nothing)

    def encode(self, cropped: CroppedPortraits, cache: ResultCache) -> ExtractionResult:
        """The second half."""
        result = encode_identity(cropped, self.extractor, cache.provenance)
        self.have_worked = True
        return result


class BatchRun:
    """The rows, and where their results go."""

    def __init__(self, flags: BatchFlags, rows: Sequence[BatchRow], out_dir: Path):
        """Raises WeightsError for a model file that is missing."""
        self.flags, self.rows, self.out_dir = flags, rows, out_dir
        roles: set[str] = set()
        for row in rows:
            roles |= roles_of(row)
        # with --ray the device is that of workers on other machines
        local_flags = flags if flags.ray is None else replace(flags, device="auto")
        files = find_models(local_flags, roles)
        self.networks = LoadedNetworks(files, flags.device, flags.fast)
        self.cache = ResultCache(files, flags.device, flags.no_cache)
        self.journal = Journal(out_dir)

    def results(self) -> Iterator[RowResult]:
        """One for each row, in their order. Raises WeightsError for networks that never worked,
        OutputError for the journal.
        """
        with self.networks.stack:
            for prepared in ahead(self._prepare_here, self.rows, ROWS_AHEAD):
                yield self.finish(prepared)

    def _prepare_here(self, row: BatchRow) -> PreparedRow:
        return self.prepare(row, self.networks.crop)

    def prepare(
        self, row: BatchRow, first_half: Callable[[Job], CroppedPortraits | ForWorker]
    ) -> PreparedRow:
        """Read the row's pictures, look whether its result exists already, do the first half. In
        the second thread.
        """
        prepared = PreparedRow(row, ForWorker())
        start = time.perf_counter()
        try:
            prepared.job = self._read(row)
            prepared.key = self.cache.key(prepared.job, roles_of(row))
            prepared.outcome = self._result_before(row, prepared.job, prepared.key) or first_half(
                prepared.job
            )
        except PulidError as error:
            prepared.outcome = error
        except Exception as error:
            prepared.outcome = unexpected(row.name, error)
        prepared.seconds = time.perf_counter() - start
        return prepared

    def _read(self, row: BatchRow) -> Job:
        paths = expand(row.flags.portrait or [], _say_nothing)
        # as rows.py does for what a row names; only now folders among it are counted
        if len(paths) > 1:
            for name in ONE_PORTRAIT:
                if getattr(row.flags, name):
                    raise InputError(
                        f"{row.name}: {name} is about the pixels of one portrait; "
                        f"{len(paths)} are named"
                    )
        return read_job(paths, row.flags, row.choice, row.boxes, _say_nothing)

    def _result_before(
        self, row: BatchRow, job: Job, key: Key
    ) -> FinishedBefore | ExtractionResult | None:
        if self.flags.resume:
            sha256 = self.journal.done(row.output, key.name)
            if sha256 is not None:
                return FinishedBefore(sha256)
        return self.cache.get(job, roles_of(row), _say_nothing)

    def finish(self, prepared: PreparedRow) -> RowResult:
        """The second half: encode, write, and only then say so. Raises as `results`."""
        start = time.perf_counter()
        outcome: Outcome
        try:
            outcome = self._written(prepared)
        except PulidError as error:
            outcome = error
        except Exception as error:
            outcome = unexpected(prepared.row.name, error)
        if isinstance(outcome, WeightsError) and not self.networks.have_worked:
            raise outcome  # not the photo's fault: it would be the same for every row
        sha256 = None
        if isinstance(outcome, FinishedBefore):
            sha256 = outcome.sha256
        elif isinstance(outcome, ExtractionResult) and prepared.key is not None:
            sha256 = hashlib.sha256(outcome.data).hexdigest()
            self.journal.add(prepared.row.output, prepared.key.name, sha256)
        seconds = round(prepared.seconds + time.perf_counter() - start, 3)
        return self._row_result(prepared, outcome, sha256, seconds)

    def _written(self, prepared: PreparedRow) -> Outcome:
        """The outcome, with its file written if there is one to write. Raises PulidError."""
        result = prepared.outcome
        if isinstance(result, CroppedPortraits):
            result = self.networks.encode(result, self.cache)
        if isinstance(result, ExtractionResult):
            write_atomically(self.out_dir / prepared.row.output, result.data, mode=0o600)
            if prepared.job is not None:
                self.cache.put(prepared.job, roles_of(prepared.row), result)
        return result

    def _row_result(
        self, prepared: PreparedRow, outcome: Outcome, sha256: str | None, seconds: float
    ) -> RowResult:
        row = prepared.row
        if isinstance(outcome, PulidError):
            return RowResult(row, "failed", None, None, str(outcome), seconds)
        output = str(self.out_dir / row.output)
        if isinstance(outcome, ExtractionResult):
            status: RowStatus = "cached" if outcome.is_cached else "done"
            return RowResult(row, status, output, sha256, None, seconds, prepared.job, outcome)
        return RowResult(row, "skipped", output, sha256, None, seconds)


def unexpected(name: str, error: Exception) -> PulidError:
    """A row's error for what nobody expects: one bad photo never stops the rest, not even by a
    mistake of ours or for want of memory.
    """
    return InputError(
        f"{name}: {type(error).__name__}: {error}; unless memory ran out, please report it"
    )


def roles_of(row: BatchRow) -> set[str]:
    """Of the model files that a row needs."""
    return needed_roles(row.choice.detects, row.flags.aligner, row.flags.parser)


def _say_nothing(line: str) -> None:
    """Quality and warnings of a row are in its line of results."""
