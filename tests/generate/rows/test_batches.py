"""The order of pictures: nothing loads twice; and the lines of results."""

from __future__ import annotations

import itertools
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pulid_generate.batch.lines import PictureResult, ScoreResult, SheetResult, as_json
from pulid_generate.rows.items import Item, in_batches


def item(number, key="k", loras=(), people=("a",)):
    return Item(number, number, 0, Path(f"{number}.png"), number, people, loras, key)


def numbers(batches):
    return [[one.number for one in batch] for batch in batches]


def test_nothing_loads_twice():
    items = [
        item(1),
        item(2, "big"),
        item(3, loras=("x",)),
        item(4, people=("b",)),
        item(5),
        item(6, "big", ("x",)),
        item(7, "big"),
    ]
    assert numbers(in_batches(items, 1)) == [[1], [5], [4], [2], [7], [3], [6]]
    assert numbers(in_batches(items, 2)) == [[1, 5], [4], [2, 7], [3], [6]]
    assert numbers(in_batches(items, 3)) == [[1, 5, 4], [2, 7], [3], [6]]
    assert in_batches([], 3) == []


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("kj"), st.sampled_from([(), ("x",)]), st.sampled_from(["a", "b"]))
    ),
    st.integers(1, 5),
)
def test_every_picture_is_in_one_batch_of_its_own_kind(kinds, size):
    items = [item(number, key, loras, (who,)) for number, (key, loras, who) in enumerate(kinds)]
    batches = in_batches(items, size)
    assert sorted(one.number for batch in batches for one in batch) == list(range(len(items)))
    assert all(
        1 <= len(batch) <= size and len({(one.key, one.loras) for one in batch}) == 1
        for batch in batches
    )
    sets = [batch[0].loras for batch in batches]
    assert sum(a != b for a, b in itertools.pairwise(sets)) <= 1


def test_lines_of_results():
    failed = PictureResult("failed", 3, 7, error="no")
    assert as_json(failed) == (
        '{"row": 3, "line": 7, "status": "failed", "output": null, "sha256": null, "seed": null, '
        '"identity": null, "arithmetic": null, "seconds": 0.0, "error": "no"}'
    )
    several = PictureResult("done", 1, identities=("a", "b"), seconds=1.23456).as_dict()
    assert (several["identity"], several["identities"]) == ("a", ["a", "b"])
    assert several["seconds"] == 1.235
    assert as_json(ScoreResult(1, None, "ä.png", "0", 5, 0.5, None, 1)) == (
        '{"row": 1, "line": null, "output": "ä.png", "sha256": "0", "seed": 5, '
        '"status": "scored", "likeness": 0.5, "cosine": 0.5, "stranger": null, "faces": 1, "error": null}'
    )
    assert as_json(SheetResult("s.png", "0")) == (
        '{"row": null, "line": null, "status": "sheet", "output": "s.png", "sha256": "0", '
        '"error": null}'
    )
