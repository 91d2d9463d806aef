"""`pulid-extract batch --ray`: this process reads portraits, shares the rows out, and writes what
comes back. Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

from pulid_extract.batch.ray_worker import Errand, Order, open_extraction
from pulid_extract.batch.work import Batch, Elsewhere, Prepared, roles_of
from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.interrupts import Interrupts
from pulid_extract.shared.cluster.dispatch import KnownAnswer, LostTask, dispatch
from pulid_extract.shared.cluster.ray_workers import join_cluster
from pulid_extract.shared.errors import InputError


def reports(batch: Batch) -> Iterator[dict[str, Any]]:
    """One for each row, as they are done; fewer if it was interrupted. Raises WorkerError, and
    OutputError for the journal.
    """
    batch.networks.worked = True  # a worker whose networks do not work says so itself
    prepared: dict[int, Prepared] = {}  # rows in the hands of workers

    def order(number: int) -> Order | KnownAnswer:
        one = prepared[number] = batch.prepare(batch.planned[number], lambda job: Elsewhere())
        if not isinstance(one.outcome, Elsewhere):
            return KnownAnswer(one.outcome)
        assert one.job is not None
        assert one.key is not None
        return Order(one.planned.name, one.job, one.key.name, frozenset(roles_of(one.planned)))

    flags = batch.flags
    opener = partial(open_extraction, Errand(flags, os.getcwd(), frozenset(batch.networks.found)))
    joining = join_cluster(flags, flags.device == "cpu", opener, _note, lambda line: None)
    with Interrupts(_note) as interrupts, interrupts.working(), joining as pool:
        for number, answer in dispatch(
            len(batch.planned), order, pool, stopping=lambda: interrupts.asked, say=_note
        ):
            one = prepared.pop(number)
            one.outcome = (
                InputError(f"{one.planned.name}: {answer.reason}")
                if isinstance(answer, LostTask)
                else answer
            )
            yield batch.finish(one)


def _note(line: str) -> None:
    console.log(f"note: {line}")
