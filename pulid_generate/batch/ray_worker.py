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
from typing import Any

import torch

from pulid_extract.shared.cli.interrupts import Interrupts
from pulid_extract.shared.cluster.actor import Place, UnfitWorkerError
from pulid_generate.assembly import requests as assembly
from pulid_generate.assembly.opening import open_session
from pulid_generate.assembly.progress import Progress
from pulid_generate.assembly.requests import Drawing
from pulid_generate.batch.lines import Status
from pulid_generate.batch.running import CHUNK, BatchRun, Denoised, Outlet
from pulid_generate.errors import PulidError, WeightsError
from pulid_generate.flags.commands import BatchFlags
from pulid_generate.pipeline.pipeline import Pipeline
from pulid_generate.pipeline.text_cache import file_identity
from pulid_generate.pipeline.texts import Prompt
from pulid_generate.request.job import Job
from pulid_generate.rows.items import Item
from pulid_generate.version import __version__


@dataclass(frozen=True)
class Errand:
    """What every worker is told when it starts.

    folder: that relative names of files start from, where it is there. someone: whether anybody is
    drawn. examples: rows of every kind, to plan memory for. prompts: of all rows. facts: what must
    be the same on every machine, or pictures would differ without a word.
    """

    flags: BatchFlags
    folder: str
    someone: bool
    examples: tuple[Drawing, ...]
    prompts: tuple[Prompt, ...]
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Order:
    """One picture to draw. there: (metadata, SHA-256) of a whole picture that has its name already,
    if the run is resumed.
    """

    item: Item
    drawing: Drawing
    there: tuple[str, str] | None = None


@dataclass(frozen=True)
class Answer:
    """What came of an order. data: the picture's file."""

    status: Status
    data: bytes = field(default=b"", repr=False)
    sha256: str | None = None
    seconds: float = 0.0
    error: str | None = None


def facts_of(pipeline: Pipeline) -> dict[str, str]:
    """What decides the pixels and is not in a row: versions, and which file has which role."""
    files = {
        f"the {role.name} file": file_identity(found.header, found.path, times=False)
        for role, found in pipeline.files.by_role()
    }
    return {"pulid-flux-toolkit": __version__, "torch": torch.__version__, **files}


class Drawer:
    """See `cluster.Actor`. Two threads call `work`: while one denoises, the other decodes and
    compresses.
    """

    def __init__(self, errand: Errand, place: Place):
        """Reads headers, loads nothing. Raises PulidError."""
        if os.path.isdir(errand.folder):
            os.chdir(errand.folder)
        flags = errand.flags
        self.threads = flags.threads if flags.threads is not None else place.cpus
        device = "cpu" if flags.cpus_per_worker is not None else flags.device
        self.notes: list[str] = []
        self.errand = errand
        progress = _Notes(self.notes)
        flags = replace(flags, device=device, threads=self.threads)
        self.pipeline, self.session = open_session(flags, errand.someone, progress, serving=True)
        _check_facts(facts_of(self.pipeline), errand.facts)
        self.session.cache.trim()
        if "cpu" in self.session.available:  # others on this machine count on it as well
            self.session.available["cpu"] //= place.peers
        for drawing in errand.examples:
            for job in assembly.jobs_of(self.pipeline, drawing):
                self.session.expect(job)
        self.tasks_per_call = 1 if self.session.keeps_autoencoder else CHUNK
        self._denoising = threading.Lock()

    def work(self, tasks: Sequence[tuple[int, Sequence[Order]]]) -> list[tuple[int, list[Answer]]]:
        """Each task is a batch. Raises UnfitWorkerError for what no row is to blame for."""
        if self.threads > 0:
            torch.set_num_threads(self.threads)  # OpenMP counts by thread
        answers = _Answers()
        orders = {order.item: order for _, batch in tasks for order in batch}
        run = BatchRun(
            lambda item: self._job(orders[item]),
            self.pipeline,
            self.session,
            answers,
            Interrupts(self.notes.append),
        )
        batches = [
            [order.item for order in batch if not self._is_there(order, answers)]
            for _, batch in tasks
        ]
        with self._denoising:
            drawn = self._denoise(run, [batch for batch in batches if batch])
            vae = self.session.load_autoencoder() if drawn else None
            if not self.session.keeps_autoencoder:
                _finish(run, vae, drawn)
                self.session.release()
                drawn = []
        _finish(run, vae, drawn)
        return [(number, [answers.of[order.item] for order in batch]) for number, batch in tasks]

    def _denoise(self, run: BatchRun, batches: Sequence[Sequence[Item]]) -> list[Denoised]:
        prompts = list(
            dict.fromkeys(prompt for batch in batches for item in batch for prompt in item.prompts)
        )
        try:
            # where encoders cannot stay beside Flux, they come once, for all
            if self.session.lacks(prompts):
                self.session.encode_prompts(
                    prompts if self.session.keeps_encoders else self.errand.prompts
                )
        except PulidError as error:
            raise UnfitWorkerError(str(error)) from None
        return list(run.denoise(batches))

    def _job(self, order: Order) -> Job:
        return self.session.expect(assembly.jobs_of(self.pipeline, order.drawing)[order.item.index])

    def _is_there(self, order: Order, answers: _Answers) -> bool:
        """Whether an earlier run has drawn it with the same effective inputs. Only a worker knows
        them all: its device is one.
        """
        if order.there is None:
            return False
        text, sha256 = order.there
        with self._denoising:
            job = self._job(order)
            same = self.pipeline.describe(job, self.pipeline.t5_lengths(job)) == text
        if same:
            answers.skipped(order.item, sha256)
        return same


def open_drawer(errand: Errand, place: Place) -> Drawer:
    """For `functools.partial`, which Ray can send."""
    return Drawer(errand, place)


def _finish(run: BatchRun, vae: Any, drawn: Sequence[Denoised]) -> None:
    for one in drawn:
        run.finish(vae, *one)


def _check_facts(here: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    for name, value in wanted.items():
        found = here.get(name)
        if found == value:
            continue
        if name.startswith("the "):
            raise WeightsError(
                f"{name} is not the one that the command was given; copy it there, or name it by a path that all machines share"
            )
        raise WeightsError(f"{name} is {found} there and {value} here; install the same version")


class _Answers(Outlet):
    """Keeps what a batch's outlet would write and print."""

    def __init__(self) -> None:
        self.full = None
        self.of: dict[Item, Answer] = {}

    def skipped(self, item: Item, sha256: str | None) -> None:
        self.of[item] = Answer("skipped", sha256=sha256)

    def drawn(self, item: Item, data: bytes, seconds: float) -> None:
        self.of[item] = Answer("done", data, seconds=seconds)

    def failed(self, item: Item, error: object) -> None:
        self.of[item] = Answer("failed", error=str(error))


class _Notes(Progress):
    """Keeps notes, and shows nothing: nobody looks at a worker's terminal."""

    def __init__(self, notes: list[str]):
        super().__init__(quiet=True)
        self.notes = notes

    def note(self, text: str) -> None:
        self.notes.append(text)
