"""A manifest's bytes as rows: JSON Lines or CSV, one generation in each record, columns named like
the flags of a single one.

Rows and problems come out, each with its line number. Every row is read before any is judged, so
that one look shows all that is to be mended. Knows no model and reads no file. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from pulid_extract.shared import records
from pulid_extract.shared.records import Problem
from pulid_generate.errors import InputError, RequestError
from pulid_generate.rows.columns import COLUMNS, field_of
from pulid_generate.rows.row import Row

EXAMPLE = '{"prompt": "in the rain", "seed": 7}'


def read_manifest(
    data: bytes, where: str, form: str, base: Path
) -> tuple[list[Row], list[Problem]]:
    """(rows, problems) of a manifest. form: ".jsonl" or ".csv". base: the folder that file names
    start from.

    Raises InputError for what is not such a text at all.
    """
    text = records.read_text(data, where)
    problems: list[Problem] = []
    if form == ".csv":
        pairs = records.csv_records(text, problems)
    else:
        pairs = records.json_lines(text, problems, EXAMPLE)
    rows: list[Row] = []
    number = 0
    for line, record in pairs:
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
        name = field_of(given)
        if name is None:
            wrong.append(f"unknown option {given[:40]!r}")
        elif name not in COLUMNS:
            wrong.append(f"{given[:40]!r} is the same for all rows; give it on the command line")
        elif name in values or name in unset:
            wrong.append(f"{name} is given twice")
        elif value is None:
            unset.add(name)
        else:
            try:
                values[name] = COLUMNS[name].value(value, base)
            except (ValueError, TypeError, OverflowError):
                wrong.append(f"{name} {str(value)[:60]!r}: expected {COLUMNS[name].expected}")
            except typer.BadParameter as error:
                wrong.append(f"{name}: {error.message}")
            # a name that no file can have is the row's problem as well
            except (RequestError, InputError) as error:
                wrong.append(f"{name}: {error}")
    if wrong:
        raise RequestError("; ".join(wrong))
    return Row(number, line, f"line {line}", values, frozenset(unset))
