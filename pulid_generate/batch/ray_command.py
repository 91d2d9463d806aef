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
from pulid_generate.batch.judging import Asked, Rows, parameters_of
from pulid_generate.batch.ray_worker import Answer, Errand, Order, facts_of, open_drawer
from pulid_generate.batch.running import Outlet
from pulid_generate.errors import PulidError
from pulid_generate.pipeline.pipeline import Pipeline
from pulid_generate.rows.items import Item, in_batches

EXAMPLES = 64  # rows that a worker plans its memory by


def draw(
    rows: Rows,
    asked: Mapping[int, Asked],
    items: Sequence[Item],
    pipeline: Pipeline,
    outlet: Outlet,
    interrupts: Interrupts,
    progress: Progress,
) -> None:
    """Draw the items on the cluster until done, interrupted or out of room; what is in hand is
    finished. Raises PulidError.
    """
    flags = rows.flags
    batches = in_batches(items, flags.batch_size)
    answered: set[Item] = set()

    def orders(number: int) -> list[Order] | KnownAnswer:
        """What a worker needs for a batch: all that is read of the rows' files."""
        found = []
        for item in batches[number]:
            if item in answered:
                continue
            try:
                there = parameters_of(item.path) if flags.resume else None
                found.append(Order(item, rows.read(asked[item.number]), there))
            except PulidError as error:  # a file has changed since it was judged
                answered.add(item)
                outlet.failed(item, error)
        return found or KnownAnswer(())

    def settle(item: Item, answer: Answer) -> None:
        answered.add(item)
        if answer.status == "done":
            outlet.drawn(item, answer.data, answer.seconds)
        elif answer.status == "skipped":
            outlet.skipped(item, answer.sha256)
        else:
            outlet.failed(item, answer.error)

    errand = Errand(
        flags=flags,
        folder=os.getcwd(),
        someone=pipeline.files.pulid is not None,
        examples=_examples(rows, asked, items),
        prompts=tuple(dict.fromkeys(prompt for item in items for prompt in item.prompts)),
        facts=facts_of(pipeline),
    )

    def stopping() -> bool:
        return interrupts.asked or outlet.full is not None

    opener = partial(open_drawer, errand)
    with (
        interrupts.working(),
        join_cluster(flags, flags.device == "cpu", opener, progress.note, progress.log) as pool,
    ):
        for number, answers in dispatch(
            len(batches), orders, pool, stopping=stopping, say=progress.note
        ):
            left = [item for item in batches[number] if item not in answered]
            if isinstance(answers, LostTask):
                answers = [Answer("failed", error=answers.reason)] * len(left)
            for item, answer in zip(left, answers, strict=True):
                settle(item, answer)


def _examples(rows: Rows, asked: Mapping[int, Asked], items: Sequence[Item]) -> tuple[Drawing, ...]:
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
    return tuple(rows.read(asked[number]) for number in chosen)
