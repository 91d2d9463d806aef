"""Manifests of `pulid-extract batch`: JSON Lines or CSV, one extraction in a row, columns named like the flags of a single one.

Bytes in; rows and problems out, each with its line number. Every row is read before any is judged, so that one look shows all that is to
be mended. Values come out as the command line would give them; what they mean is for its reader. Knows nothing of pictures or networks.

Sources: RFC 4180 (CSV), jsonlines.org.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pulid_extract.errors import InputError

FORMS = (".jsonl", ".csv")
MAX_BYTES = 256 << 20
MAX_LINE = 1 << 20  # bytes of one line of JSON, and characters of one cell
MAX_PROBLEMS = 100  # that are listed one by one
SEPARATOR = ";"  # between the portraits, and between the boxes, of one cell
YES_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
WIDE = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True)
class Row:
    """One extraction. line: where it starts, from 1. values: column -> str, int, float, bool or list of str; what was not given is not
    there. "portrait" is a list of at least one name; "portraits" has become it."""

    line: int
    values: Mapping[str, Any]


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value or any(0xD800 <= ord(character) < 0xE000 for character in value):
        raise ValueError("a text")
    return value


def _texts(value: object) -> list[str]:
    parts = value.split(SEPARATOR) if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise ValueError(f"a list of texts, or texts between {SEPARATOR!r}")
    found = [_text(part).strip() for part in parts]
    if not found or not all(found):
        raise ValueError(f"a list of texts, or texts between {SEPARATOR!r}, none of them empty")
    return found


def _pixels(value: object) -> str:
    """ "1,2" or [1, 2], or a list of points."""
    if isinstance(value, str):
        return value
    flat = [part for item in value for part in (item if isinstance(item, list) else [item])] if isinstance(value, list) else []
    if not flat or not all(isinstance(part, int | float) and not isinstance(part, bool) for part in flat):
        raise ValueError("numbers of pixels")
    return ",".join(f"{part:.12g}" if isinstance(part, float) else str(part) for part in flat)


def _regions(value: object) -> list[str]:
    """ "1,2,3,4;5,6,7,8", [1, 2, 3, 4], or a list of either."""
    if isinstance(value, list) and value and all(isinstance(part, int | float) for part in value):
        return [_pixels(value)]
    parts = value.split(SEPARATOR) if isinstance(value, str) else value
    if not isinstance(parts, list) or not parts:
        raise ValueError("regions X,Y,W,H")
    return [_pixels(part) for part in parts]


def _whole(value: object) -> int:
    if isinstance(value, str):
        value = int(value) if len(value) < 20 else None
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("a whole number")
    return value


def _number(value: object) -> float:
    if isinstance(value, str):
        value = float(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError("a number")
    return float(value)


def _yes_no(value: object) -> bool:
    found = YES_NO.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise ValueError("true or false")
    return found


# column -> what reads it, and what it expects, in words
COLUMNS: dict[str, tuple[Callable[[object], Any], str]] = {
    "portrait": (_text, "the name of a picture"),
    "portraits": (_texts, f"a list of pictures, or their names between {SEPARATOR!r}"),
    "out": (_text, "a file name"),
    "face_index": (_whole, "a whole number"),
    "face_order": (_text, "a word"),
    "face_at": (_pixels, "X,Y"),
    "face_box": (_pixels, "X,Y,W,H"),
    "landmarks": (_pixels, "five points X,Y,.."),
    "det_threshold": (_number, "a number"),
    "aligner": (_text, "a word"),
    "parser": (_text, "a word"),
    "mask": (_text, "the name of a picture"),
    "box": (_regions, f"X,Y,W,H, several between {SEPARATOR!r}"),
    "with_uncond": (_yes_no, "true or false"),
    "dtype": (_text, "a word"),
    "fuse": (_text, "a word"),
    "drop_outliers": (_yes_no, "true or false"),
    "mix_people": (_yes_no, "true or false"),
    "strict": (_yes_no, "true or false"),
}


def read_manifest(data: bytes, where: str, form: str) -> tuple[list[Row], list[str]]:
    """(rows, problems) of a manifest. form: ".jsonl" or ".csv". A problem is one line with the number of the line it is about.

    Raises InputError for what is no such text at all: another encoding, NUL bytes, a header that cannot be, more than 256 MiB.
    """
    text = _decode(data, where)
    problems: list[str] = []
    rows = []
    for line, record in _csv(text, where, problems) if form == ".csv" else _json_lines(text, problems):
        row = _row(line, record, problems)
        if row is not None:
            rows.append(row)
    if not rows and not problems:
        raise InputError(f"{where}: holds no row; expected one extraction in each, with a column 'portrait' or 'portraits'")
    return rows, problems


def listed(problems: list[str]) -> list[str]:
    """As many of the problems as one wants to read, and how many more there are."""
    more = len(problems) - MAX_PROBLEMS
    return [*problems[:MAX_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]


def _decode(data: bytes, where: str) -> str:
    if len(data) > MAX_BYTES:
        raise InputError(f"{where}: is larger than {MAX_BYTES >> 20} MiB; split it")
    if data[:2] in WIDE:
        raise InputError(f"{where}: is {WIDE[data[:2]]}; save it as UTF-8")
    if (nul := data.find(b"\0")) >= 0:
        raise InputError(f"{where}: line {_line_of(data, nul)} holds a NUL byte; a manifest is UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: line {_line_of(data, error.start)} is not UTF-8; save the manifest as UTF-8") from None


def _line_of(data: bytes, place: int) -> int:
    return data.count(b"\n", 0, place) + 1


def _json_lines(text: str, problems: list[str]) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would also split at U+2028 inside a name
        if not line.strip():
            continue
        if len(line) > MAX_LINE:
            problems.append(f"line {number}: is longer than {MAX_LINE >> 20} MiB; expected one JSON object")
            continue
        try:
            record = json.loads(line, object_pairs_hook=_once)
        except RecursionError:
            problems.append(f"line {number}: is nested too deeply; expected one JSON object of plain values")
        except ValueError as error:  # JSONDecodeError; a number of too many digits; a name that is there twice
            problems.append(f"line {number}: is not JSON ({getattr(error, 'msg', error)}); expected one object in each line")
        else:
            if isinstance(record, dict):
                yield number, {name: value for name, value in record.items() if value is not None}
            else:
                problems.append(f'line {number}: expected a JSON object, such as {{"portrait": "me.jpg"}}')


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a name is there twice")
    return record


def _csv(text: str, where: str, problems: list[str]) -> Iterator[tuple[int, dict[str, object]]]:
    csv.field_size_limit(MAX_LINE)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    head: list[str] | None = None
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            problems.append(f"line {start}: is not CSV ({error})")
            return  # after a broken quote nothing says where the next row starts
        if not any(cell.strip() for cell in cells):
            continue
        if head is None:
            head = [cell.strip() for cell in cells]
            _check_head(head, where, start)
        elif len(cells) > len(head):
            problems.append(f"line {start}: has {len(cells)} cells, the header has {len(head)}; names with a comma want quotes")
        else:
            yield start, {name: cell for name, cell in zip(head, cells, strict=False) if cell.strip()}


def _check_head(head: list[str], where: str, line: int) -> None:
    twice = sorted({name for name in head if head.count(name) > 1})
    if twice:
        raise InputError(f"{where}: line {line}: the column {twice[0][:40]!r} is there twice")
    unknown = [name for name in head if name not in COLUMNS]
    if unknown:
        raise InputError(f"{where}: line {line}: unknown column {unknown[0][:40]!r}; expected some of {', '.join(COLUMNS)}")


def _row(line: int, record: dict[str, object], problems: list[str]) -> Row | None:
    values: dict[str, Any] = {}
    before = len(problems)
    for name, value in record.items():
        if name not in COLUMNS:
            problems.append(f"line {line}: unknown column {name[:40]!r}; expected some of {', '.join(COLUMNS)}")
            continue
        read, form = COLUMNS[name]
        try:
            values[name] = read(value)
        except (ValueError, TypeError, OverflowError):
            problems.append(f"line {line}: {name} {str(value)[:60]!r}: expected {form}")
    if "portrait" in record and "portraits" in record:
        problems.append(f"line {line}: has both portrait and portraits; give one of them")
    elif "portrait" not in record and "portraits" not in record:
        problems.append(f"line {line}: names no portrait; expected a column 'portrait' or 'portraits'")
    elif record.get("portrait", True) == "":
        problems.append(f"line {line}: portrait is empty; expected the name of a picture")
    if len(problems) > before:
        return None
    portraits = values.pop("portraits", None) or [values["portrait"]]
    return Row(line, {**values, "portrait": portraits})
