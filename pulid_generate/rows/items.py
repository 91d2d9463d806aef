"""Pictures of a batch: what is known of each before it is drawn, and the order in which nothing
loads twice.

Knows no model, no flag and no manifest. Imports no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, eq=False)
class Item:
    """One picture of a row, judged and not yet drawn: little enough to keep for every row.

    number, line: of its row. index: of the row's pictures. path: what is written. key: items
    of equal keys may share a batch. loras: what must be on Flux. prompts: what text encoders read.
    identities: hashes, for folding. metadata: whether the file tells what made it. done: the
    SHA-256 of what an earlier run has made of the same inputs.
    """

    number: int
    line: int | None
    index: int
    path: Path
    seed: int
    identities: tuple[str, ...]
    loras: Hashable
    key: Hashable
    prompts: tuple[Any, ...] = ()
    metadata: bool = True
    done: str | None = None


def in_batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    """The items in groups of at most `size` that go through Flux together.

    Equal LoRAs stand together (each set is put on once), then equal keys (sizes, steps), then
    identities (each is folded once); within them, and among them, the order of the rows is kept.
    """
    ranks: list[dict[Hashable, int]] = [{}, {}, {}]
    for item in items:
        for rank, value in zip(ranks, (item.loras, item.key, item.identities), strict=True):
            rank.setdefault(value, len(rank))
    loras, keys, people = ranks
    # stable
    ordered = sorted(
        items, key=lambda item: (loras[item.loras], keys[item.key], people[item.identities])
    )
    return [
        list(group)
        for _, alike in itertools.groupby(
            ordered, key=lambda item: (loras[item.loras], keys[item.key])
        )
        for group in in_groups(alike, size)
    ]


def in_groups(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """At most `size` of them at a time, in their order."""
    while group := list(itertools.islice(items, size)):
        yield group
