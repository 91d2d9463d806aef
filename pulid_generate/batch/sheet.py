"""The sheet of a batch: identities down, prompts across, and what else differs under the pictures.
Where most of such a grid would be empty, the pictures stand in the order of their rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pulid_generate.assembly.people import identity_files
from pulid_generate.batch.results import Shown
from pulid_generate.errors import PulidError
from pulid_generate.flags.commands import BatchFlags
from pulid_generate.flags.names import flag_name
from pulid_generate.pictures.sheet_grid import Heading, SheetGrid, Thumbnail, flow
from pulid_generate.request.prompt import read_prompt_file
from pulid_generate.rows.names import identity_word
from pulid_generate.rows.row import BY_ROW

# What is not said under a picture: it is its place, it is said in any case, or it is not seen
PLACED = (
    "prompt",
    "prompt_file",
    "pulid_id_embedding",
    "identity",
    "reference",
    "seed",
    "batch_count",
)
UNSEEN = ("output", "output_begin_idx", "disable_image_metadata", "lora_model_dir")
TOLD = tuple(name for name in BY_ROW if name not in PLACED + UNSEEN)
FULL_ENOUGH = 0.5  # share of the cells that must hold something


def sheet_of(shown: Sequence[Shown]) -> SheetGrid:
    """The grid of all pictures of a batch."""
    people = {one.asked.row.number: tuple(identity_files(one.asked.flags)) for one in shown}
    prompts = {one.asked.row.number: _prompt(one.asked.flags) for one in shown}
    names, differing = (
        names_of(list(people.values())),
        differing_of([one.asked.flags for one in shown]),
    )
    rows, columns = list(dict.fromkeys(people.values())), list(dict.fromkeys(prompts.values()))
    cells: dict[tuple[Hashable, str], list[Shown]] = defaultdict(list)
    for one in shown:
        number = one.asked.row.number
        cells[people[number], prompts[number]].append(one)
    if len(cells) < FULL_ENOUGH * len(rows) * len(columns):
        return flow(
            [
                _tile(
                    one,
                    differing,
                    names[people[one.asked.row.number]],
                    prompts[one.asked.row.number],
                )
                for one in shown
            ]
        )
    portraits = [
        _portrait([one for column in columns for one in cells[row, column]]) for row in rows
    ]
    if len(rows) > 1 and len(set(portraits)) == 1:
        portraits = [None] * len(rows)  # of one of them, or of nobody here
    return SheetGrid(
        [
            [[_tile(one, differing) for one in cells[row, column]] for column in columns]
            for row in rows
        ],
        [Heading(column) for column in columns],
        [Heading(names[row], portrait) for row, portrait in zip(rows, portraits, strict=True)]
        if rows != [()]
        else (),
    )


def _tile(one: Shown, differing: Sequence[str], *facts: str) -> Thumbnail:
    return one.tile(
        *facts,
        ", ".join(filter(None, (told(name, getattr(one.asked.flags, name)) for name in differing))),
    )


def _portrait(shown: Sequence[Shown]) -> Path | None:
    """The reference of a person, if it is the same in all pictures."""
    first = {one.references[:1] for one in shown}
    return next(iter(first))[0] if len(first) == 1 and first != {()} else None


def _prompt(flags: BatchFlags) -> str:
    if flags.prompt_file is None:
        return flags.prompt or ""
    try:
        return read_prompt_file(flags.prompt_file)
    except PulidError:  # it was there when the rows were judged
        return flags.prompt_file


def names_of(people: Sequence[tuple[str, ...]]) -> Mapping[tuple[str, ...], str]:
    """What the people of a picture are called: their files' names, with the folders where two would
    be called the same.
    """
    short = {one: identity_word(list(one)) for one in people}
    called = list(short.values())
    return {
        one: name if called.count(name) == 1 else " + ".join(one) or name
        for one, name in short.items()
    }


def differing_of(flags: Sequence[BatchFlags]) -> list[str]:
    """The options, beside those that make the grid, of which not all pictures have the same
    value.
    """
    return [name for name in TOLD if len({_key(getattr(one, name)) for one in flags}) > 1]


def _key(value: Any) -> Hashable:
    return tuple(value) if isinstance(value, list) else value


def told(name: str, value: Any) -> str:
    """An option and its value, in few words; "" for one that is off."""
    option = flag_name(name).removeprefix("--")
    if isinstance(value, bool):
        return option if value else ""
    if isinstance(value, list):
        value = " ".join(Path(part).name for part in value)
    if value is None:
        return ""
    return f"{option} {Path(value).name if name in ('init_img', 'mask') else f'{value:g}' if isinstance(value, float) else value}"
