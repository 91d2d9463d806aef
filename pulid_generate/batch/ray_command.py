"""`pulid-generate batch --ray`: this process judges the rows, shares them out, and writes what
comes back. Loads no model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pulid_extract.shared.cli.interrupts import Interrupts
from pulid_extract.shared.cluster.dispatch import KnownAnswer, LostTask, dispatch
from pulid_extract.shared.cluster.ray_workers import join_cluster
from pulid_generate.assembly.progress import Progress
from pulid_generate.assembly.requests import Drawing
from pulid_generate.batch.judging import MergedRow, Rows, parameters_in
from pulid_generate.batch.ray_worker import (
    DrawResult,
    DrawTask,
    WorkerSetup,
    facts_of,
    open_worker,
)
from pulid_generate.batch.running import PictureWriter
from pulid_generate.errors import PulidError
from pulid_generate.pipeline.pipeline import Pipeline
from pulid_generate.rows.items import Item, in_batches

# Rows that a worker plans its memory by
EXAMPLES = 64


def draw(
    rows: Rows,
    merged: Mapping[int, MergedRow],
    items: Sequence[Item],
    pipeline: Pipeline,
    writer: PictureWriter,
    interrupts: Interrupts,
    progress: Progress,
) -> None:
    """Draw the items on the cluster until done, interrupted or out of room; what is in hand is
    finished. Raises PulidError.
    """
    flags = rows.flags
    batches = in_batches(items, flags.batch_size)
    answered: set[Item] = set()

    def task(number: int) -> list[DrawTask] | KnownAnswer:
        """What a worker needs for a batch: all that is read of the rows' files."""
        tasks = []
        for item in batches[number]:
            if item in answered:
                continue
            try:
                found = parameters_in(item.path) if flags.resume else None
                tasks.append(DrawTask(item, rows.read(merged[item.number]), found))
            except PulidError as error:  # a file has changed since it was judged
                answered.add(item)
                writer.failed(item, error)
        return tasks or KnownAnswer(())

    def stopping() -> bool:
        return interrupts.asked or writer.full is not None

    setup = WorkerSetup(
        flags=flags,
        folder=os.getcwd(),
        with_pulid=pipeline.files.pulid is not None,
        examples=_examples(rows, merged, items),
        prompts=tuple(dict.fromkeys(prompt for item in items for prompt in item.prompts)),
        facts=facts_of(pipeline),
    )
    opener = partial(open_worker, setup)
    with (
        interrupts.working(),
        join_cluster(flags, flags.device == "cpu", opener, progress.note, progress.log) as pool,
    ):
        for number, results in dispatch(
            len(batches), task, pool, stopping=stopping, say=progress.note
        ):
            left = [item for item in batches[number] if item not in answered]
            if isinstance(results, LostTask):
                results = [DrawResult("failed", error=results.reason)] * len(left)
            for item, result in zip(left, results, strict=True):
                answered.add(item)
                _settle(item, result, writer)


def _settle(item: Item, result: DrawResult, writer: PictureWriter) -> None:
    if result.status == "done":
        writer.drawn(item, result.data, result.arithmetic, result.seconds)
    elif result.status == "skipped":
        writer.skipped(item, result.sha256)
    else:
        writer.failed(item, result.error)


def _examples(
    rows: Rows, merged: Mapping[int, MergedRow], items: Sequence[Item]
) -> tuple[Drawing, ...]:
    """Rows that between them need all the memory: one of each kind and person, a few of many.
    Raises PulidError.
    """
    chosen: dict[int, None] = {}
    kinds: set[Any] = set()
    for item in items:
        kind = (item.key, item.loras), item.identities
        if len(chosen) < EXAMPLES and not kinds.issuperset(kind):
            chosen.setdefault(item.number)
            kinds.update(kind)
    return tuple(rows.read(merged[number]) for number in chosen)
