"""One worker of `pulid-extract batch --ray`: makes what it is given, and hands back bytes. Writes
no file and prints nothing.

Portraits come with their rows; model files it finds by their paths on its own machine.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pulid_extract.batch.work import Networks, unexpected
from pulid_extract.extraction.job import Job, Made
from pulid_extract.extraction.memory import Memory
from pulid_extract.extraction.opening import find_models
from pulid_extract.flags.batch import BatchFlags
from pulid_extract.shared.cluster.actor import Place, UnfitWorkerError
from pulid_extract.shared.errors import PulidError, WeightsError


@dataclass(frozen=True)
class Errand:
    """What every worker is told when it starts. folder: that relative names of files start from,
    where it is there. roles: of model files.
    """

    flags: BatchFlags
    folder: str
    roles: frozenset[str]


@dataclass(frozen=True)
class Order:
    """One row. name: for messages. key: the job's, by the model files and libraries of the machine
    that gives the order. roles: it needs.
    """

    name: str
    job: Job
    key: str
    roles: frozenset[str]


class Extraction:
    """See `cluster.Actor`. Two threads call `work`: one finds and cuts out a face while the other
    runs EVA-CLIP and IDFormer.
    """

    notes: tuple[str, ...] = ()
    tasks_per_call = 1

    def __init__(self, errand: Errand, place: Place):
        """Finds the files, loads nothing. Raises PulidError."""
        import torch

        if os.path.isdir(errand.folder):
            os.chdir(errand.folder)
        self.threads = place.cpus
        flags = errand.flags
        device = "cpu" if flags.cpus_per_worker is not None else flags.device
        torch.set_num_threads(self.threads)
        found = find_models(replace(flags, device=device), errand.roles)
        self.networks = Networks(found, device)
        self.memory = Memory(found, flags.device, flags.no_cache)
        self._cutting, self._making = threading.Lock(), threading.Lock()

    def work(self, tasks: Sequence[tuple[int, Order]]) -> list[tuple[int, Made | PulidError]]:
        """Raises UnfitWorkerError for what no row is to blame for."""
        return [(number, self._answer(order)) for number, order in tasks]

    def _answer(self, order: Order) -> Made | PulidError:
        import torch

        torch.set_num_threads(self.threads)  # OpenMP counts by thread
        try:
            if self.memory.key(order.job, order.roles).name != order.key:
                raise UnfitWorkerError(
                    "its model files or libraries are not those of the machine that gave the command; copy the files, install the same versions"
                )
            with self._cutting:
                half = self.networks.cut(order.job)
            with self._making:
                return self.networks.make(half, self.memory)
        except UnfitWorkerError:
            raise
        except PulidError as error:
            if isinstance(error, WeightsError) and not self.networks.worked:
                raise UnfitWorkerError(str(error)) from None
            return error
        except Exception as error:
            return unexpected(order.name, error)


def open_extraction(errand: Errand, place: Place) -> Extraction:
    """For `functools.partial`, which Ray can send."""
    return Extraction(errand, place)
