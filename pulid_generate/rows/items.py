"""Pictures of a batch: what is known of each before it is drawn, and the order in which nothing
loads twice.

Knows no model, no flag and no manifest. Imports no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Item:
    """One picture of a row, judged and not yet drawn: little enough to keep for every row."""

    # of its row
    number: int
    line: int | None
    # of the row's pictures, from 0
    index: int
    # what is written
    path: Path
    seed: int
    # hashes; each is folded once
    identities: tuple[str, ...]
    # what must be on Flux
    loras: Hashable
    # items of equal keys may share a batch
    key: Hashable
    # what the text encoders read
    prompts: tuple[Any, ...] = ()
    # whether the file tells what made it
    metadata: bool = True
    # the SHA-256 of what an earlier run has made of the same inputs
    done: str | None = None


def in_batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    """The items in groups of at most `size` that go through Flux together.

    Equal LoRAs stand together (each set is put on once), then equal keys (sizes, steps), then
    identities (each is folded once); within them, and among them, the order of the rows is kept.
    """
    loras = _ranks(item.loras for item in items)
    keys = _ranks(item.key for item in items)
    people = _ranks(item.identities for item in items)

    def together(item: Item) -> tuple[int, int]:
        return loras[item.loras], keys[item.key]

    # a stable sort
    ordered = sorted(items, key=lambda item: (*together(item), people[item.identities]))
    batches: list[list[Item]] = []
    for _, alike in itertools.groupby(ordered, key=together):
        batches += in_groups(alike, size)
    return batches


def _ranks(values: Iterable[Hashable]) -> dict[Hashable, int]:
    """Each value -> its place in the order of first appearance."""
    return {value: rank for rank, value in enumerate(dict.fromkeys(values))}


def in_groups(values: Iterable[Value], size: int) -> Iterator[list[Value]]:
    """At most `size` of them at a time, in their order."""
    left = iter(values)
    while group := list(itertools.islice(left, size)):
        yield group
