"""The axes of `pulid-generate sweep`: an option and the values it takes, as rows of a batch. Knows
no model and no sheet. Imports no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from pulid_generate.errors import RequestError
from pulid_generate.rows.manifest import COLUMNS, LIST_TEXTS, NAMES, Row, read_row
from pulid_generate.rows.names import as_word

MOST_AXES = 2  # a sheet has columns and rows
MOST_VALUES = 1000
ON = ".."
EXAMPLE = "id-weight=0,0.25,..,1.5"
# What makes no axis, and why
WITH_COMMAS = (
    *LIST_TEXTS,
    "id_weight_schedule",
    "prompt",
    "negative_prompt",
    "identity",
    "lora",
    "reference",
)
UNSEEN = ("output", "output_begin_idx", "disable_image_metadata", "batch_count", "lora_model_dir")
SWEPT = tuple(name for name in COLUMNS if name not in WITH_COMMAS + UNSEEN)


@dataclass(frozen=True)
class Axis:
    """name: the field of Flags. option: as it was typed. values: as they were typed, or follow from
    what was.
    """

    name: str
    option: str
    values: tuple[str, ...]

    def labels(self) -> list[str]:
        return [f"{self.option} {value}" for value in self.values]


def parse_axis(text: str) -> Axis:
    """An axis of "id-weight=0,0.25,..,1.5". Raises RequestError."""
    option, equals, values = text.partition("=")
    option = option.strip().lstrip("-")
    name = NAMES.get(option.replace("-", "_"))
    if not equals or not values.strip():
        raise RequestError(f"--over {text}: expected an option and its values, such as {EXAMPLE}")
    if name in WITH_COMMAS:
        raise RequestError(
            f"--over {text}: values of {option} may hold commas; draw them with 'pulid-generate batch --sheet'"
        )
    if name not in SWEPT:
        raise RequestError(
            f"--over {text}: {option} is no option that makes other pictures; known: {', '.join(_options())}"
        )
    axis = Axis(name, option, tuple(expand(values, f"--over {text}")))
    read = [repr(_read(axis, value, text)) for value in axis.values]
    for index, value in enumerate(read):
        if value in read[:index]:
            raise RequestError(f"--over {text}: {axis.values[index]} is there twice")
    return axis


def _options() -> Iterator[str]:
    return (name.replace("_", "-") for name in SWEPT)


def _read(axis: Axis, value: str, text: str) -> Any:
    try:
        return read_row({axis.name: value}, 1, 1).values[axis.name]
    except RequestError as error:
        raise RequestError(f"--over {text}: {error}") from None


def expand(text: str, where: str) -> list[str]:
    """["0", "0.25", "0.5", "0.75", "1"] of "0,0.25,..,1": two dots go on as the two values before
    do. Raises RequestError.
    """
    parts = [part.strip() for part in text.split(",")]
    found: list[str] = []
    for index, part in enumerate(parts):
        if part == ON:
            if index + 1 == len(parts):
                raise RequestError(f"{where}: after {ON} comes the last value")
            found += _between(found[-2:], parts[index + 1], where)
        else:
            found.append(part)
    if len(found) > MOST_VALUES:
        raise RequestError(f"{where}: {len(found)} values; the most is {MOST_VALUES}")
    return found


def _between(before: Sequence[str], last: str, where: str) -> list[str]:
    """What the dots stand for, between the two values before them and the last, in decimal
    fractions: 0.1 + 0.2 is 0.3.
    """
    try:
        first, second, end = map(Decimal, (*before, last))
        finite = all(number.is_finite() for number in (first, second, end))
    except (InvalidOperation, ValueError):
        finite = False
    if not finite:
        raise RequestError(
            f"{where}: {ON} stands after two numbers and before one, such as 0,0.25,..,1.5"
        )
    step = second - first
    if not step or (end - second) / step < 0:
        raise RequestError(f"{where}: from {first} by {second} one does not come to {end}")
    count = (end - second) / step
    if count != int(count):
        raise RequestError(f"{where}: in steps of {step} from {first} one does not meet {end}")
    if count > MOST_VALUES:
        raise RequestError(f"{where}: more than {MOST_VALUES} values")
    return [f"{(second + number * step).normalize():f}" for number in range(1, int(count))]


def sweep(axes: Sequence[Axis]) -> list[Row]:
    """A row for each choice of values, the first axis innermost, as a sheet is read. Raises
    RequestError.
    """
    if len({axis.name for axis in axes}) < len(axes):
        raise RequestError(f"--over {axes[0].option}: is there twice")
    rows = []
    for number, choice in enumerate(
        itertools.product(*(axis.values for axis in reversed(axes))), 1
    ):
        chosen = dict(zip((axis.option for axis in axes), reversed(choice), strict=True))
        row = read_row(chosen, number, number)
        label = ", ".join(f"{option} {value}" for option, value in chosen.items())
        name = as_word("_".join(f"{option}-{value}" for option, value in chosen.items()))
        values = {**row.values, "output": f"{number:04d}_{name}.png"}
        rows.append(replace(row, line=None, where=f"row {number} ({label})", values=values))
    return rows
