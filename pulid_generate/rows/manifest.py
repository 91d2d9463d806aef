"""Rows of `pulid-generate batch`: JSON Lines or CSV, one generation in each, columns named like the
flags of a single one.

Bytes in; rows and problems out, each with its line number. Every row is read before any is judged,
so that one look shows all that is to be mended. A row and the command's own flags make the `Flags`
of one generation. Knows no model and reads no file. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer

from pulid_extract.shared import records
from pulid_extract.shared.records import SEPARATOR, Problem
from pulid_generate.errors import InputError, RequestError
from pulid_generate.flags.commands import BatchFlags
from pulid_generate.flags.drawing import DrawingFlags
from pulid_generate.flags.identity import IdentityFlags
from pulid_generate.request.people import rename_files

# What may differ from row to row. The rest is loaded, placed or said once for all of them.
BY_ROW = (
    *(item.name for item in fields(DrawingFlags)),
    *(item.name for item in fields(IdentityFlags)),
    *("lora", "lora_model_dir", "vae_tiling", "vae_tile_size", "vae_tile_overlap"),
    *("output", "output_begin_idx", "disable_image_metadata", "reference"),
)
# texts of the command line that JSON may give as a number
NUMBER_TEXTS = ("id_start_step", "id_end_step", "flow_shift")
LIST_TEXTS = ("sigmas", "skip_layers")  # and as a list of numbers
FILES = (
    "pulid_id_embedding",
    "prompt_file",
    "negative_prompt_file",
    "init_img",
    "mask",
    "lora_model_dir",
)
# A row that gives one of these takes the place of a common flag for the other
EITHER = (("prompt", "prompt_file"), ("negative_prompt", "negative_prompt_file"))


@dataclass(frozen=True)
class Row:
    """One generation. number: from 1, of the rows. line: where it starts in the manifest, None of a
    grid. where: for messages.

    values: field of Flags -> its value. unset: fields that go back to their own default (null in
    JSON), whatever the command says.
    """

    number: int
    line: int | None
    where: str
    values: Mapping[str, Any] = field(default_factory=dict)
    unset: frozenset[str] = frozenset()

    def merged(
        self, common: BatchFlags, given: Collection[str]
    ) -> tuple[BatchFlags, frozenset[str]]:
        """The flags of this row, with the command's own as defaults, and which of them were
        given.
        """
        values = {name: getattr(BatchFlags, name) for name in self.unset} | dict(self.values)
        for pair in EITHER:
            for name, other in (pair, pair[::-1]):
                if name in self.values and other not in self.values:
                    values[other] = getattr(BatchFlags, other)
        kept = frozenset(given) - values.keys()
        return replace(common, **values), kept | self.values.keys()

    def problem(self, error: object) -> Problem:
        """What is wrong with this row."""
        return Problem(f"{self.where}: {error}", self.line or self.number)


@dataclass(frozen=True)
class Column:
    """How a cell or a JSON value becomes what the command line would give. read: raises ValueError.
    expected: in words.
    """

    name: str
    read: Callable[[object], Any]
    expected: str
    check: Callable[[Any], Any] | None = None


def read_manifest(
    data: bytes, where: str, form: str, base: Path
) -> tuple[list[Row], list[Problem]]:
    """(rows, problems) of a manifest. form: ".jsonl" or ".csv". base: the folder that file names
    start from.

    Raises InputError for what is no such text at all.
    """
    text = records.read_text(data, where)
    problems: list[Problem] = []
    rows: list[Row] = []
    number = 0
    for line, record in _records(text, form, problems):
        number += 1
        try:
            rows.append(read_row(record, number, line, base))
        except RequestError as error:
            problems.append(Problem.of_line(line, error))
    if not number and not problems:
        raise InputError(
            f"{where}: holds no row; expected one generation in each, such as {EXAMPLE}"
        )
    return rows, problems


EXAMPLE = '{"prompt": "in the rain", "seed": 7}'


def _records(text: str, form: str, problems: list[Problem]) -> Iterator[tuple[int, records.Record]]:
    return (
        records.csv_records(text, problems)
        if form == ".csv"
        else records.json_lines(text, problems, EXAMPLE)
    )


def parse_line(text: str, number: int, base: Path) -> Row:
    """One line of JSON. Raises RequestError."""
    try:
        record = records.json_record(text, EXAMPLE)
    except InputError as error:
        raise RequestError(str(error)) from None
    return read_row(record, number, number, base)


def read_row(record: Mapping[str, object], number: int, line: int, base: Path = Path()) -> Row:
    """A record of names and values as a row. Raises RequestError, which names all that is wrong
    with it.
    """
    values: dict[str, Any] = {}
    unset: set[str] = set()
    wrong = []
    for given, value in record.items():
        name = NAMES.get(given.strip().lstrip("-").replace("-", "_"))
        if name is None:
            wrong.append(f"unknown option {given[:40]!r}")
        elif name not in COLUMNS:
            wrong.append(f"{given[:40]!r} is the same for all rows; give it on the command line")
        elif name in values or name in unset:
            wrong.append(f"{name} is there twice")
        elif value is None:
            unset.add(name)
        else:
            try:
                values[name] = _value(COLUMNS[name], value, base)
            except (ValueError, TypeError, OverflowError):
                wrong.append(f"{name} {str(value)[:60]!r}: expected {COLUMNS[name].expected}")
            except (typer.BadParameter, RequestError) as error:
                wrong.append(
                    f"{name}: {error.message if isinstance(error, typer.BadParameter) else error}"
                )
    if wrong:
        raise RequestError("; ".join(wrong))
    return Row(number, line, f"line {line}", values, frozenset(unset))


# ------------------------------------------------------------------------------------------- values


def _number_text(value: object) -> str:
    return (
        str(value)
        if isinstance(value, int | float) and not isinstance(value, bool)
        else records.text(value)
    )


def _list_text(value: object) -> str:
    return (
        ",".join(_number_text(part) for part in value)
        if isinstance(value, list)
        else records.text(value)
    )


def _word_of(words: tuple[str, ...]) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in words:
            raise ValueError("one of them")
        return records.text(value)

    return read


READERS: dict[Any, tuple[Callable[[object], Any], str]] = {
    bool: (records.yes_no, "true or false"),
    int: (records.whole, "a whole number"),
    float: (records.number, "a number"),
    str: (records.text, "a text"),
    list: (records.texts, f"a list of texts, or texts between {SEPARATOR!r}"),
}


def _column(name: str, hint: Any) -> Column:
    kind, info = get_args(hint)[:2]
    [kind] = (
        [part for part in get_args(kind) if part is not NoneType]
        if NoneType in get_args(kind)
        else [kind]
    )
    if get_origin(kind) is Literal:
        words = get_args(kind)
        return Column(name, _word_of(words), f"one of {', '.join(words)}", info.callback)
    read, expected = READERS[get_origin(kind) or kind]
    if name in NUMBER_TEXTS:
        read, expected = _number_text, "a number, or a text"
    if name in LIST_TEXTS:
        read, expected = _list_text, "a list of numbers, or numbers between commas"
    return Column(name, read, expected, info.callback)


def _names(field_name: str, info: Any) -> Iterator[str]:
    """Everything that an option is called, as `read_row` writes it."""
    yield field_name
    yield field_name.removeprefix("pulid_")  # id-weight, as the metadata has it
    for name in (info.default, *(info.param_decls or ())):
        if isinstance(name, str) and name.startswith("--"):
            yield name.lstrip("-").replace("-", "_")


_HINTS = get_type_hints(BatchFlags, include_extras=True)
COLUMNS = {name: _column(name, _HINTS[name]) for name in BY_ROW}
NAMES = {
    name: item.name
    for item in fields(BatchFlags)
    for name in _names(item.name, get_args(_HINTS[item.name])[1])
}


def _value(column: Column, value: object, base: Path) -> Any:
    read = column.read(value)
    if column.check is not None:
        read = column.check(read)
    if column.name in FILES:
        return _file(read, base)
    if column.name == "identity":
        return [rename_files(text, lambda name: _file(name, base)) for text in read]
    if column.name in ("lora", "reference"):
        return [_file(text, base) for text in read]
    return read


def _file(name: str, base: Path) -> str:
    if name == "-":
        raise RequestError(
            "rows are drawn from files, standard input can be read once; name a file"
        )
    if not name.strip():
        raise ValueError("a file name")
    return str(base / Path(name).expanduser())
