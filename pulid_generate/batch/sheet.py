"""The sheet of a batch: identities down, prompts across, and what else differs under the pictures.
Where most of such a grid would be empty, the pictures stand in the order of their rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pulid_generate.assembly.people import identity_files
from pulid_generate.batch.results import PictureOutcome
from pulid_generate.errors import PulidError
from pulid_generate.flags.commands.names import flag_name
from pulid_generate.flags.commands.tables import BatchFlags
from pulid_generate.pictures.sheet_grid import Heading, SheetGrid, Thumbnail, flow
from pulid_generate.request.prompts.prompt import read_prompt_file
from pulid_generate.rows.names import identity_word
from pulid_generate.rows.row import BY_ROW

People = tuple[str, ...]  # the files of those in a picture

# Options that a caption leaves out: they are the picture's place, they are said in any case, or
# they cannot be seen
PLACED = (
    "prompt",
    "prompt_file",
    "pulid_id_embedding",
    "identity",
    "reference",
    "seed",
    "batch_count",
)
UNSEEN = (
    "output",
    "output_begin_idx",
    "disable_image_metadata",
    "lora_model_dir",
    "hires_upscalers_dir",
)
CAPTIONED = tuple(name for name in BY_ROW if name not in PLACED + UNSEEN)
# share of the cells that must hold something
FULL_ENOUGH = 0.5


def batch_sheet(outcomes: Sequence[PictureOutcome]) -> SheetGrid:
    """The grid of all pictures of a batch."""
    # by the row's number
    people = {one.row.number: tuple(identity_files(one.flags)) for one in outcomes}
    prompts = {one.row.number: _prompt(one.flags) for one in outcomes}
    names = people_names(people.values())
    differing = differing_options([one.flags for one in outcomes])

    rows = list(dict.fromkeys(people.values()))
    columns = list(dict.fromkeys(prompts.values()))
    cells: dict[tuple[People, str], list[PictureOutcome]] = defaultdict(list)
    for one in outcomes:
        cells[people[one.row.number], prompts[one.row.number]].append(one)
    if len(cells) < FULL_ENOUGH * len(rows) * len(columns):
        thumbnails = []
        for one in outcomes:
            place = names[people[one.row.number]], prompts[one.row.number]
            thumbnails.append(_thumbnail(one, differing, *place))
        return flow(thumbnails)

    lines = []
    portraits = []
    for row in rows:
        line = []
        pictures: list[PictureOutcome] = []
        for column in columns:
            cell = cells[row, column]
            line.append([_thumbnail(one, differing) for one in cell])
            pictures += cell
        lines.append(line)
        portraits.append(_portrait(pictures))
    # of one of them, or of nobody here
    if len(rows) > 1 and len(set(portraits)) == 1:
        portraits = [None] * len(rows)
    headings: list[Heading] = []
    # nobody needs no heading
    if rows != [()]:
        for row, portrait in zip(rows, portraits, strict=True):
            headings.append(Heading(names[row], portrait))
    return SheetGrid(lines, [Heading(column) for column in columns], headings)


def _thumbnail(one: PictureOutcome, differing: Sequence[str], *facts: str) -> Thumbnail:
    options = [option_text(name, getattr(one.flags, name)) for name in differing]
    return one.thumbnail(*facts, ", ".join(text for text in options if text))


def _portrait(outcomes: Sequence[PictureOutcome]) -> Path | None:
    """The reference of a person, if it is the same in all pictures."""
    first = {one.references[:1] for one in outcomes}
    if len(first) != 1 or first == {()}:
        return None
    [[portrait]] = first
    return portrait


def _prompt(flags: BatchFlags) -> str:
    if flags.prompt_file is None:
        return flags.prompt or ""
    try:
        return read_prompt_file(flags.prompt_file)
    # it was there when the rows were judged
    except PulidError:
        return flags.prompt_file


def people_names(people: Collection[People]) -> Mapping[People, str]:
    """What the people of a picture are called: their files' names, with the folders where two would
    be called the same.
    """
    short = {one: identity_word(list(one)) for one in people}
    called = list(short.values())
    names = {}
    for one, name in short.items():
        if called.count(name) > 1 and one:
            name = " + ".join(one)
        names[one] = name
    return names


def differing_options(flags: Sequence[BatchFlags]) -> list[str]:
    """The options, beside those that make the grid, of which not all pictures have the same
    value.
    """
    differing = []
    for name in CAPTIONED:
        values = {_hashable(getattr(one, name)) for one in flags}
        if len(values) > 1:
            differing.append(name)
    return differing


def _hashable(value: Any) -> Hashable:
    return tuple(value) if isinstance(value, list) else value


def option_text(name: str, value: Any) -> str:
    """An option and its value, in few words; "" for one that is off."""
    option = flag_name(name).removeprefix("--")
    if isinstance(value, bool):
        return option if value else ""
    if value is None:
        return ""
    if isinstance(value, list):
        text = " ".join(Path(part).name for part in value)
    elif name in ("init_img", "mask"):
        text = Path(value).name
    elif isinstance(value, float):
        text = f"{value:g}"
    else:
        text = str(value)
    return f"{option} {text}"
