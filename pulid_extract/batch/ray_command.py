"""`pulid-extract batch --ray`: this process reads portraits, shares the rows out, and writes what
comes back. Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

from pulid_extract.batch.ray_worker import ExtractTask, WorkerSetup, open_worker
from pulid_extract.batch.results import RowResult
from pulid_extract.batch.work import BatchRun, ForWorker, PreparedRow, roles_of
from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.interrupts import Interrupts
from pulid_extract.shared.cluster.dispatch import KnownAnswer, LostTask, dispatch
from pulid_extract.shared.cluster.ray_workers import join_cluster
from pulid_extract.shared.errors import InputError


def results(run: BatchRun) -> Iterator[RowResult]:
    """One for each row, as they are done; fewer if it was interrupted. Raises WorkerError, and
    OutputError for the journal.
    """
    # a worker whose networks do not work says so itself
    run.networks.have_worked = True
    # rows that workers have, by their place
    prepared: dict[int, PreparedRow] = {}

    def task(number: int) -> ExtractTask | KnownAnswer:
        row = run.prepare(run.rows[number], lambda job: ForWorker())
        prepared[number] = row
        if not isinstance(row.outcome, ForWorker):
            return KnownAnswer(row.outcome)
        assert row.job is not None
        assert row.key is not None
        return ExtractTask(row.row.name, row.job, row.key.name, frozenset(roles_of(row.row)))

    flags = run.flags
    setup = WorkerSetup(flags, os.getcwd(), frozenset(run.networks.files))
    joining = join_cluster(
        flags, flags.device == "cpu", partial(open_worker, setup), _note, lambda line: None
    )
    with Interrupts(_note) as interrupts, interrupts.working(), joining as pool:
        for number, answer in dispatch(
            len(run.rows), task, pool, stopping=lambda: interrupts.asked, say=_note
        ):
            row = prepared.pop(number)
            if isinstance(answer, LostTask):
                row.outcome = InputError(f"{row.row.name}: {answer.reason}")
            else:
                row.outcome = answer
            yield run.finish(row)


def _note(line: str) -> None:
    console.log(f"note: {line}")
