"""Manifests of `pulid-extract batch`: JSON Lines or CSV, one extraction in a row, columns named
like the flags of a single one.

Bytes in; rows and problems out, each with its line number. Every row is read before any is judged,
so that one look shows all that is to be mended. Values come out as the command line would give
them; what they mean is for its reader. Knows nothing of pictures or networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pulid_extract.shared import records
from pulid_extract.shared.errors import InputError
from pulid_extract.shared.records import SEPARATOR, Problem

EXAMPLE = '{"portrait": "me.jpg"}'


@dataclass(frozen=True)
class ManifestRow:
    """One extraction."""

    # where it starts, from 1
    line: int
    # column -> str, int, float, bool or list of str, for what was given; "portrait" is a list of at
    # least one name, "portraits" has become it
    values: Mapping[str, Any]


def _portraits(value: object) -> list[str]:
    names = records.texts(value)
    if not names:
        raise ValueError("at least one")
    return names


def _pixels(value: object) -> str:
    """ "1,2" or [1, 2], or a list of points."""
    if isinstance(value, str):
        return value
    flat: list[object] = []
    for item in value if isinstance(value, list) else []:
        flat += item if isinstance(item, list) else [item]
    if not flat:
        raise ValueError("numbers of pixels")
    return ",".join(map(_number_text, flat))


def _number_text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("numbers of pixels")
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _regions(value: object) -> list[str]:
    """ "1,2,3,4;5,6,7,8", [1, 2, 3, 4], or a list of either."""
    if isinstance(value, list) and value and all(isinstance(part, int | float) for part in value):
        return [_pixels(value)]
    parts = value.split(SEPARATOR) if isinstance(value, str) else value
    if not isinstance(parts, list) or not parts:
        raise ValueError("regions X,Y,W,H")
    return [_pixels(part) for part in parts]


# column -> what reads it, and what it expects, in words
COLUMNS: dict[str, tuple[Callable[[object], Any], str]] = {
    "portrait": (records.text, "the name of a picture"),
    "portraits": (_portraits, f"a list of pictures, or their names between {SEPARATOR!r}"),
    "out": (records.text, "a file name"),
    "face_index": (records.whole, "a whole number"),
    "face_order": (records.text, "a word"),
    "face_at": (_pixels, "X,Y"),
    "face_box": (_pixels, "X,Y,W,H"),
    "landmarks": (_pixels, "five points X,Y,.."),
    "det_threshold": (records.number, "a number"),
    "aligner": (records.text, "a word"),
    "parser": (records.text, "a word"),
    "mask": (records.text, "the name of a picture"),
    "box": (_regions, f"X,Y,W,H, several between {SEPARATOR!r}"),
    "with_uncond": (records.yes_no, "true or false"),
    "dtype": (records.text, "a word"),
    "fuse": (records.text, "a word"),
    "drop_outliers": (records.yes_no, "true or false"),
    "mix_people": (records.yes_no, "true or false"),
    "strict": (records.yes_no, "true or false"),
}


def read_manifest(data: bytes, where: str, form: str) -> tuple[list[ManifestRow], list[Problem]]:
    """(rows, problems) of a manifest. form: ".jsonl" or ".csv".

    Raises InputError for what is not such a text at all: another encoding, NUL bytes, an invalid
    header, more than 256 MiB.
    """
    text = records.read_text(data, where)
    problems: list[Problem] = []

    def check_head(head: list[str], line: int) -> None:
        _check_head(head, where, line)

    if form == ".csv":
        numbered = records.csv_records(text, problems, check_head)
    else:
        numbered = records.json_lines(text, problems, EXAMPLE)
    rows = []
    for line, record in numbered:
        given = {name: value for name, value in record.items() if value is not None}
        row = _row(line, given, problems)
        if row is not None:
            rows.append(row)
    if not rows and not problems:
        raise InputError(
            f"{where}: holds no row; expected one extraction in each, with a column 'portrait' or "
            "'portraits'"
        )
    return rows, problems


def _check_head(head: list[str], where: str, line: int) -> None:
    twice = sorted({name for name in head if head.count(name) > 1})
    if twice:
        raise InputError(f"{where}: line {line}: the column {twice[0][:40]!r} is named twice")
    unknown = [name for name in head if name not in COLUMNS]
    if unknown:
        raise InputError(
            f"{where}: line {line}: unknown column {unknown[0][:40]!r}; expected some of "
            f"{', '.join(COLUMNS)}"
        )


def _row(line: int, record: dict[str, object], problems: list[Problem]) -> ManifestRow | None:
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for name, value in record.items():
        if name not in COLUMNS:
            known = ", ".join(COLUMNS)
            wrong.append(f"unknown column {name[:40]!r}; expected some of {known}")
            continue
        read, form = COLUMNS[name]
        try:
            values[name] = read(value)
        except (ValueError, TypeError, OverflowError):
            wrong.append(f"{name} {str(value)[:60]!r}: expected {form}")
    if "portrait" in record and "portraits" in record:
        wrong.append("has both portrait and portraits; give one of them")
    elif "portrait" not in record and "portraits" not in record:
        wrong.append("names no portrait; expected a column 'portrait' or 'portraits'")
    elif record.get("portrait", True) == "":
        wrong.append("portrait is empty; expected the name of a picture")
    if wrong:
        problems += (Problem.of_line(line, text) for text in wrong)
        return None
    portraits = values.pop("portraits", None) or [values["portrait"]]
    return ManifestRow(line, {**values, "portrait": portraits})
