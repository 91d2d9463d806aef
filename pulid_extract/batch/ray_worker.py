"""One worker of `pulid-extract batch --ray`: extracts what it is given, and hands back bytes.
Writes no file and prints nothing.

Portraits come with their rows; model files it finds by their paths on its own machine.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pulid_extract.batch.work import LoadedNetworks, unexpected
from pulid_extract.extraction.job import Job
from pulid_extract.extraction.opening import find_models
from pulid_extract.extraction.result_cache import ResultCache
from pulid_extract.extraction.results import ExtractionResult
from pulid_extract.flags.batch import BatchFlags
from pulid_extract.shared.cluster.actor import Place, UnfitWorkerError
from pulid_extract.shared.errors import PulidError, WeightsError


@dataclass(frozen=True)
class WorkerSetup:
    """What every worker is told when it starts."""

    flags: BatchFlags
    # that relative names of files start from, where the machine has it
    folder: str
    # of the model files that some row needs
    roles: frozenset[str]


@dataclass(frozen=True)
class ExtractTask:
    """One row."""

    # for messages
    name: str
    job: Job
    # the name of the job's key, by the model files and libraries of the machine that hands it out
    key: str
    # of the model files that it needs
    roles: frozenset[str]


class ExtractionWorker:
    """See `cluster.actor.Actor`. Two threads call `work`: one finds and cuts out a face while the
    other runs EVA-CLIP and IDFormer.
    """

    tasks_per_call = 1

    def __init__(self, setup: WorkerSetup, place: Place):
        """Finds the files, loads nothing. Raises PulidError."""
        import torch

        from pulid_extract.networks.devices import choose_arithmetic, choose_device

        if os.path.isdir(setup.folder):
            os.chdir(setup.folder)
        flags = setup.flags
        device = "cpu" if flags.cpus_per_worker is not None else flags.device
        self.threads = place.cpus
        torch.set_num_threads(self.threads)
        files = find_models(replace(flags, device=device), setup.roles)
        self.host = place.host
        self.notes: list[str] = []
        self.networks = LoadedNetworks(files, device, flags.fast, self._note)
        choose_arithmetic(choose_device(device), flags.fast, self._note)
        self.cache = ResultCache(files, flags.device, flags.no_cache)
        self._cropping, self._encoding = threading.Lock(), threading.Lock()

    def _note(self, line: str) -> None:
        """Nobody reads a worker's own standard error."""
        note = f"{self.host}: {line}"
        if note not in self.notes:
            self.notes.append(note)

    def work(
        self, tasks: Sequence[tuple[int, ExtractTask]]
    ) -> list[tuple[int, ExtractionResult | PulidError]]:
        """(number, answer) of each (number, task). Raises UnfitWorkerError for what no row is to
        blame for.
        """
        return [(number, self._answer(task)) for number, task in tasks]

    def _answer(self, task: ExtractTask) -> ExtractionResult | PulidError:
        import torch

        # OpenMP counts by thread
        torch.set_num_threads(self.threads)
        try:
            if self.cache.key(task.job, task.roles).name != task.key:
                raise UnfitWorkerError(
                    "its model files or libraries are not those of the machine that gave the "
                    "command; copy the files, install the same versions"
                )
            with self._cropping:
                cropped = self.networks.crop(task.job)
            with self._encoding:
                return self.networks.encode(cropped, self.cache)
        except UnfitWorkerError:
            raise
        except PulidError as error:
            if isinstance(error, WeightsError) and not self.networks.have_worked:
                raise UnfitWorkerError(str(error)) from None
            return error
        except Exception as error:
            return unexpected(task.name, error)


def open_worker(setup: WorkerSetup, place: Place) -> ExtractionWorker:
    """For `functools.partial`, which Ray can send."""
    return ExtractionWorker(setup, place)
