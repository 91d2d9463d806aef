"""Records out of JSON Lines and CSV, and the values in their cells: what the manifests of both
stages are made of. Imports no torch.

Bytes in; records out, and problems, each one line with the number of the line that it is about, so
that one look shows all that is to be mended. Knows no column.

Sources: RFC 4180 (CSV), jsonlines.org.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pulid_extract.shared.errors import InputError
from pulid_extract.shared.json_text import read_json

FORMS = (".jsonl", ".csv")
MAX_BYTES = 256 << 20
MAX_LINE = 1 << 20  # bytes of one line of JSON, and characters of one cell
MAX_PROBLEMS = 100  # that are listed one by one
SEPARATOR = ";"  # between the members of a list in one cell
YES_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
WIDE = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}

Record = dict[str, object]


@dataclass(frozen=True)
class Problem:
    """What is to be mended before anything starts."""

    # One line, with its place
    text: str
    # Of the line or row that it is about, from 1; 0 for all of them
    number: int = 0

    @classmethod
    def of_line(cls, number: int, text: object) -> Problem:
        """Of a line in a file."""
        return cls(f"line {number}: {text}", number)


def read_text(data: bytes, where: str) -> str:
    """The text of a manifest. Raises InputError for another encoding, NUL bytes, or more than 256
    MiB.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{where}: is larger than {MAX_BYTES >> 20} MiB; split it")
    if data[:2] in WIDE:
        raise InputError(f"{where}: is {WIDE[data[:2]]}; save it as UTF-8")
    if (nul := data.find(b"\0")) >= 0:
        raise InputError(
            f"{where}: line {_line_of(data, nul)} holds a NUL byte; a manifest is UTF-8 text"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: line {_line_of(data, error.start)} is not UTF-8; save the manifest as UTF-8"
        ) from None


def _line_of(data: bytes, place: int) -> int:
    return data.count(b"\n", 0, place) + 1


def listed(problems: Sequence[Problem]) -> list[str]:
    """As many of the problems as one wants to read, in the order of their places, and how many more
    there are.
    """
    ordered = sorted(problems, key=lambda problem: problem.number)
    lines = [problem.text for problem in ordered[:MAX_PROBLEMS]]
    if len(problems) > MAX_PROBLEMS:
        lines.append(f"and {len(problems) - MAX_PROBLEMS} more")
    return lines


def json_lines(text: str, problems: list[Problem], example: str) -> Iterator[tuple[int, Record]]:
    """(line, record) of every line that holds one. example: of a record, for messages."""
    # splitlines would also split at U+2028 inside a text
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json_record(line, example)
        except InputError as error:
            problems.append(Problem.of_line(number, error))


def json_record(line: str, example: str) -> Record:
    """One line of JSON. Raises InputError."""
    if len(line) > MAX_LINE:
        raise InputError(f"is longer than {MAX_LINE >> 20} MiB; expected one JSON object")
    try:
        record = read_json(line)
    except ValueError as error:
        raise InputError(f"is not JSON ({error}); expected one object in each line") from None
    if not isinstance(record, dict):
        raise InputError(f"expected a JSON object, such as {example}")
    return record


def _other_separator(head: str) -> str:
    """What separates the columns of a header that has no comma, in words; "" if nothing does."""
    for character, name in ((";", "semicolons"), ("\t", "tabs")):
        if character in head:
            return name
    return ""


def csv_records(
    text: str,
    problems: list[Problem],
    check_head: Callable[[list[str], int], None] = lambda head, line: None,
) -> Iterator[tuple[int, Record]]:
    """(line, record) of every row. Cells that are empty are not given. check_head: may raise, for a
    header and its line.
    """
    csv.field_size_limit(MAX_LINE)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    head: list[str] | None = None
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.append(Problem.of_line(start, f"is not CSV ({error})"))
            return  # after a broken quote nothing says where the next row starts
        if not any(cell.strip() for cell in cells):
            continue
        if head is None:
            head = [cell.strip() for cell in cells]
            if len(head) == 1 and (other := _other_separator(head[0])):
                problems.append(
                    Problem.of_line(
                        start,
                        f"its columns are separated by {other}, as Excel does in many languages; "
                        "they want commas: save it anew as CSV with commas, or as JSON Lines",
                    )
                )
                return
            check_head(head, start)
            twice = sorted({name for name in head if head.count(name) > 1})
            if twice:
                problems.append(
                    Problem.of_line(start, f"the column {twice[0][:40]!r} is named twice")
                )
                return
        elif len(cells) > len(head):
            problems.append(
                Problem.of_line(
                    start,
                    f"has {len(cells)} cells, the header has {len(head)}; texts with a comma want "
                    "quotes",
                )
            )
        else:
            yield (
                start,
                {name: cell for name, cell in zip(head, cells, strict=False) if cell.strip()},
            )


def check_types(told: object, types: Mapping[str, Any]) -> None:
    """Raise TypeError for a record that is not of these names, with values of these types."""
    if not isinstance(told, dict) or told.keys() != types.keys():
        raise TypeError(f"expected the names {', '.join(types)}")
    for name, kind in types.items():
        is_flag = isinstance(told[name], bool)
        # Python's booleans are integers
        if not isinstance(told[name], kind) or (is_flag and kind is not bool):
            raise TypeError(name)


# ------------------------------ one value, of JSON or of a cell; ValueError if it is not of a kind


def text(value: object) -> str:
    """A text that can be a file's name or be written anywhere."""
    if not isinstance(value, str) or "\0" in value or _has_surrogates(value):
        raise ValueError("a text")
    return value


def _has_surrogates(value: str) -> bool:
    return any(0xD800 <= ord(character) < 0xE000 for character in value)


def texts(value: object) -> list[str]:
    """A list of texts, in one cell between semicolons; none of them empty."""
    parts = value.split(SEPARATOR) if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise ValueError("texts")
    stripped = [text(part).strip() for part in parts]
    if not all(stripped):
        raise ValueError("texts, none of them empty")
    return stripped


def whole(value: object) -> int:
    """A whole number."""
    if isinstance(value, str):
        value = int(value) if len(value) < 20 else None
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("a whole number")
    return value


def number(value: object) -> float:
    """A finite number."""
    if isinstance(value, str):
        value = float(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError("a number")
    return float(value)


def yes_no(value: object) -> bool:
    """true or false, in a cell also yes, no, 1 and 0."""
    if isinstance(value, str):
        value = YES_NO.get(value.strip().lower())
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value
