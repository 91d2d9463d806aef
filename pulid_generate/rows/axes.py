"""The axes of `pulid-generate sweep`: an option and the values it takes, as rows of a batch. Knows
no model and no sheet. Imports no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from pulid_generate.errors import RequestError
from pulid_generate.rows.columns import COLUMNS, LIST_TEXTS, field_of
from pulid_generate.rows.manifest import read_row
from pulid_generate.rows.names import as_word
from pulid_generate.rows.row import Row

# a sheet has columns and rows
MOST_AXES = 2
MOST_VALUES = 1000
# between values: continues the two values before it
ELLIPSIS = ".."
EXAMPLE = "id-weight=0,0.25,..,1.5"
# Columns that cannot be an axis: their values may hold commas, or they change no picture
WITH_COMMAS = (
    *LIST_TEXTS,
    "id_weight_schedule",
    "prompt",
    "negative_prompt",
    "identity",
    "lora",
    "reference",
)
UNSEEN = (
    "output",
    "output_begin_idx",
    "disable_image_metadata",
    "batch_count",
    "lora_model_dir",
    "hires_upscalers_dir",
)
SWEPT = tuple(name for name in COLUMNS if name not in WITH_COMMAS + UNSEEN)


@dataclass(frozen=True)
class Axis:
    """One option and its values."""

    # the field of BatchFlags
    name: str
    # as it was typed
    option: str
    # as they were typed, or follow from what was
    values: tuple[str, ...]

    def labels(self) -> list[str]:
        """What each value is called on a sheet."""
        return [f"{self.option} {value}" for value in self.values]


def parse_axis(text: str) -> Axis:
    """An axis of "id-weight=0,0.25,..,1.5". Raises RequestError."""
    where = f"--over {text}"
    option, equals, values = text.partition("=")
    option = option.strip().lstrip("-")
    name = field_of(option)
    if not equals or not values.strip():
        raise RequestError(f"{where}: expected an option and its values, such as {EXAMPLE}")
    if name in WITH_COMMAS:
        raise RequestError(
            f"{where}: values of {option} may hold commas; draw them with "
            "'pulid-generate batch --sheet'"
        )
    if name not in SWEPT:
        known = ", ".join(field.replace("_", "-") for field in SWEPT)
        raise RequestError(
            f"{where}: {option} is not an option that changes pictures; known: {known}"
        )
    axis = Axis(name, option, tuple(expand(values, where)))
    seen = set()
    for value in axis.values:
        read = repr(_read(axis, value, where))
        if read in seen:
            raise RequestError(f"{where}: {value} is given twice")
        seen.add(read)
    return axis


def _read(axis: Axis, value: str, where: str) -> Any:
    """The value as the option takes it. Raises RequestError."""
    try:
        return read_row({axis.name: value}, 1, 1).values[axis.name]
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None


def expand(text: str, where: str) -> list[str]:
    """["0", "0.25", "0.5", "0.75", "1"] of "0,0.25,..,1": two dots go on as the two values before
    do. where: for messages. Raises RequestError.
    """
    parts = [part.strip() for part in text.split(",")]
    values: list[str] = []
    for index, part in enumerate(parts):
        if part != ELLIPSIS:
            values.append(part)
        elif index + 1 == len(parts):
            raise RequestError(f"{where}: after {ELLIPSIS} comes the last value")
        else:
            values += _between(values[-2:], parts[index + 1], where)
    if len(values) > MOST_VALUES:
        raise RequestError(f"{where}: {len(values)} values; the most is {MOST_VALUES}")
    return values


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
            f"{where}: {ELLIPSIS} stands after two numbers and before one, such as 0,0.25,..,1.5"
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


def sweep_rows(axes: Sequence[Axis]) -> list[Row]:
    """A row for each choice of values, the first axis innermost, as a sheet is read. Raises
    RequestError.
    """
    if len({axis.name for axis in axes}) < len(axes):
        raise RequestError(f"--over {axes[0].option}: is given twice")
    rows = []
    # the last axis of a product is its innermost
    choices = itertools.product(*(axis.values for axis in reversed(axes)))
    for number, choice in enumerate(choices, 1):
        chosen = {axis.option: value for axis, value in zip(axes, reversed(choice), strict=True)}
        row = read_row(chosen, number, number)
        label = ", ".join(f"{option} {value}" for option, value in chosen.items())
        name = as_word("_".join(f"{option}-{value}" for option, value in chosen.items()))
        values = {**row.values, "output": f"{number:04d}_{name}.png"}
        rows.append(replace(row, line=None, where=f"row {number} ({label})", values=values))
    return rows
