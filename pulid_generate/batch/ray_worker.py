"""One worker of `batch --ray`: draws what it is given, with models that stay, and hands back bytes.
Writes no picture and prints nothing.

The rows' own files (identities, pictures to start from) come with them; model files and LoRAs it
finds by their paths on its own machine.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from pulid_extract.shared.cli.interrupts import Interrupts
from pulid_extract.shared.cluster.actor import Place, UnfitWorkerError
from pulid_generate.assembly.opening import open_engine
from pulid_generate.assembly.progress import NoteKeeper
from pulid_generate.assembly.requests import Drawing
from pulid_generate.batch.lines import PictureStatus
from pulid_generate.batch.running import CHUNK, BatchRun, PictureWriter
from pulid_generate.errors import PulidError, WeightsError
from pulid_generate.flags.commands.tables import BatchFlags
from pulid_generate.pipeline.callers import Denoised
from pulid_generate.pipeline.pipeline import Pipeline
from pulid_generate.pipeline.text_cache import file_identity
from pulid_generate.request.job import Job
from pulid_generate.request.prompts.tokens import Prompt
from pulid_generate.rows.items import Item
from pulid_generate.version import __version__


@dataclass(frozen=True)
class WorkerSetup:
    """What every worker is told when it starts."""

    flags: BatchFlags
    # That relative names of files start from, where it is there
    folder: str
    # Whether anybody is drawn
    with_pulid: bool
    # Rows of every kind, to plan memory for
    examples: tuple[Drawing, ...]
    # Of all rows
    prompts: tuple[Prompt, ...]
    # What must be the same on every machine, or pictures would differ without a word
    facts: Mapping[str, str]


@dataclass(frozen=True)
class DrawTask:
    """One picture to draw."""

    item: Item
    drawing: Drawing
    # (metadata, SHA-256) of a whole picture that has its name already, if the run is resumed
    found: tuple[str, str] | None = None


@dataclass(frozen=True)
class DrawResult:
    """What came of a task."""

    status: PictureStatus
    # The picture's file
    data: bytes = field(default=b"", repr=False)
    sha256: str | None = None
    # In what the worker's models computed
    arithmetic: str = ""
    seconds: float = 0.0
    error: str | None = None


def facts_of(pipeline: Pipeline) -> dict[str, str]:
    """What decides the pixels and is not in a row: versions, and which file has which role."""
    facts = {"pulid-flux-toolkit": __version__, "torch": torch.__version__}
    for role, found in pipeline.files.by_role():
        facts[f"the {role.name} file"] = file_identity(found.header, found.path, times=False)
    return facts


def check_facts(here: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raise WeightsError for a machine that would draw other pixels than the command's. here:
    `facts_of` on this machine. wanted: the command's.
    """
    for name, value in wanted.items():
        found = here.get(name)
        if found == value:
            continue
        if name.startswith("the "):
            raise WeightsError(
                f"{name} is not the one that the command was given; "
                "copy it there, or name it by a path that all machines share"
            )
        raise WeightsError(f"{name} is {found} there and {value} here; install the same version")


class DrawWorker:
    """See `cluster.Actor`. Two threads call `work`: while one denoises, the other decodes and
    compresses.
    """

    def __init__(self, setup: WorkerSetup, place: Place):
        """Reads headers, loads nothing. Raises PulidError."""
        if os.path.isdir(setup.folder):
            os.chdir(setup.folder)
        flags = setup.flags
        self.setup = setup
        self.threads = flags.threads if flags.threads is not None else place.cpus
        self.notes: list[str] = []
        device = "cpu" if flags.cpus_per_worker is not None else flags.device
        self.pipeline, self.engine = open_engine(
            replace(flags, device=device, threads=self.threads),
            with_pulid=setup.with_pulid,
            progress=NoteKeeper(self.notes),
            staying="all",
        )
        check_facts(facts_of(self.pipeline), setup.facts)
        self.engine.cache.trim()
        available = self.engine.planner.available
        if "cpu" in available:  # others on this machine count on it as well
            available["cpu"] //= place.peers
        for drawing in setup.examples:
            self.engine.expect(drawing.job(self.pipeline))
        self.tasks_per_call = 1 if self.engine.decodes_beside else CHUNK
        self._denoising = threading.Lock()

    def work(
        self, tasks: Sequence[tuple[int, Sequence[DrawTask]]]
    ) -> list[tuple[int, list[DrawResult]]]:
        """Each task is a batch. Raises UnfitWorkerError for what no row is to blame for."""
        if self.threads > 0:
            torch.set_num_threads(self.threads)  # OpenMP counts by thread
        results = _ResultKeeper()
        by_item = {task.item: task for _, batch in tasks for task in batch}
        run = BatchRun(
            lambda item: self._job(by_item[item]),
            self.engine,
            results,
            Interrupts(self.notes.append),
        )
        with self._denoising:
            batches = [self._not_drawn(batch, results) for _, batch in tasks]
            denoised = self._denoise(run, [batch for batch in batches if batch])
        for picture in denoised:
            run.finish(picture)
        return [(number, [results.of[task.item] for task in batch]) for number, batch in tasks]

    def _not_drawn(self, batch: Sequence[DrawTask], results: _ResultKeeper) -> list[Item]:
        """The items without those that an earlier run has drawn with the same effective inputs.
        Only a worker knows them all: its device is one.
        """
        items = []
        for task in batch:
            if task.found is not None:
                parameters, sha256 = task.found
                if self.pipeline.parameters(self._job(task)) == parameters:
                    results.skipped(task.item, sha256)
                    continue
            items.append(task.item)
        return items

    def _denoise(self, run: BatchRun, batches: Sequence[Sequence[Item]]) -> list[Denoised[Item]]:
        """What is left to be decoded, beside the next batch. Where the autoencoder cannot stay,
        nothing is.
        """
        prompts = [prompt for batch in batches for item in batch for prompt in item.prompts]
        try:
            # where encoders cannot stay beside Flux, they come once, for all rows
            if self.engine.lacks(prompts):
                beside = self.engine.encodes_beside
                self.engine.encode(prompts if beside else self.setup.prompts)
        except PulidError as error:
            raise UnfitWorkerError(str(error)) from None
        left = []
        for denoised in self.engine.draw(batches, run):
            if self.engine.decodes_beside:
                left.append(denoised)
            else:
                run.finish(denoised)
        return left

    def _job(self, task: DrawTask) -> Job:
        first = self.engine.expect(task.drawing.job(self.pipeline))
        return first.numbered(task.item.index)


def open_worker(setup: WorkerSetup, place: Place) -> DrawWorker:
    """For `functools.partial`, which Ray can send."""
    return DrawWorker(setup, place)


class _ResultKeeper(PictureWriter):
    """Keeps what a batch's writer would write and tell."""

    def __init__(self) -> None:
        self.full = None
        self.of: dict[Item, DrawResult] = {}

    def skipped(self, item: Item, sha256: str | None) -> None:
        self.of[item] = DrawResult("skipped", sha256=sha256)

    def drawn(self, item: Item, data: bytes, arithmetic: str, seconds: float) -> None:
        self.of[item] = DrawResult("done", data, arithmetic=arithmetic, seconds=seconds)

    def failed(self, item: Item, error: object) -> None:
        self.of[item] = DrawResult("failed", error=str(error))
