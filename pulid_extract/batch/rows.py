"""The rows of a batch: its flags, and every row judged before a file is looked for. Imports no
torch, loads nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import typer

from pulid_extract.batch.manifest import Row, read_manifest
from pulid_extract.extraction.job import decide
from pulid_extract.flags.extract import ONE_PICTURE, Flags
from pulid_extract.shared.cli import console
from pulid_extract.shared.errors import InputError
from pulid_extract.shared.records import FORMS, MAX_BYTES, Problem

if TYPE_CHECKING:
    from pulid_extract.faces.choice import FaceChoice
    from pulid_extract.pictures.regions import FaceBox
from pulid_extract.flags.batch import BatchFlags

ENDING = ".pulidembd"
BY_HAND = ("face_box", "landmarks")
WITHOUT_ORDER = ("face_at", *BY_HAND)


@dataclass(frozen=True)
class Planned:
    """One row that was judged. name: for messages."""

    number: int
    line: int | None
    flags: Flags
    choice: FaceChoice
    boxes: tuple[FaceBox, ...]
    output: str

    @property
    def name(self) -> str:
        return (
            f"line {self.line}" if self.line is not None else str((self.flags.portrait or [""])[0])
        )


def plan(flags: BatchFlags) -> tuple[list[Planned], list[Problem]]:
    """(rows, problems). Raises InputError for what is neither a folder nor
    a manifest.
    """
    rows, problems, base = _read_rows(flags.rows)
    common = {
        item.name: getattr(flags, item.name) for item in fields(Flags) if hasattr(flags, item.name)
    }
    planned, taken = [], dict[str, str]()
    for number, row in enumerate(rows, 1):
        try:
            one = _planned(number, row, flags.rows, common, base)
        except InputError as error:
            # line 0: a folder's picture, whose name is in the message
            at_line = Problem.of_line(row.line, error)
            problems.append(at_line if row.line else Problem(str(error)))
            continue
        # some file systems take A and a for one name
        first = taken.setdefault(one.output.casefold(), one.name)
        if first != one.name:
            taken_by = f"would be written to {one.output}, as {first} is; give each its own 'out'"
            problems.append(Problem(f"{one.name}: {taken_by}", one.line or 0))
        planned.append(one)
    return planned, problems


def _read_rows(given: str) -> tuple[list[Row], list[Problem], Path]:
    """(rows, problems, folder that their names start from)."""
    from pulid_extract.pictures.portrait import pictures_in

    if given != "-" and Path(given).is_dir():
        pictures, skipped = pictures_in(given)
        if skipped:
            console.log(f"{given}: {len(skipped)} skipped, no pictures by their names")
        return [Row(0, {"portrait": [str(picture)]}) for picture in pictures], [], Path()
    form = ".jsonl" if given == "-" else Path(given).suffix.lower()
    if form not in FORMS:
        raise InputError(
            f"{given}: expected a folder of pictures, or a manifest that ends in {' or '.join(FORMS)}"
        )
    try:
        if given == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1) if sys.stdin is not None else b""
        else:
            with open(given, "rb") as file:
                data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{given}: cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from None
    where = "standard input" if given == "-" else given
    return *read_manifest(data, where, form), Path() if given == "-" else Path(given).parent


def _planned(number: int, row: Row, given: str, common: Mapping[str, Any], base: Path) -> Planned:
    values = dict(row.values)
    output = _output(values.pop("out", None), values["portrait"][0])
    if "-" in values["portrait"]:
        raise InputError("portrait -: rows are files; standard input holds one picture at most")
    if row.line and len(values["portrait"]) > 1:
        for name in ONE_PICTURE:
            if name in values:
                raise InputError(
                    f"{name} is about the pixels of one portrait; {len(values['portrait'])} are named"
                )
    for name in ("portrait", "mask"):
        if isinstance(values.get(name), list):
            values[name] = [str(base / path) for path in values[name]]
        elif name in values:
            values[name] = str(base / values[name])
    values = {name: _one_of(name, value) for name, value in values.items()}
    kept = dict(common)
    for group, idle in ((WITHOUT_ORDER, ("face_order",)), (BY_HAND, ("det_threshold", "aligner"))):
        # a row's own choice takes the place of the command line's
        if any(name in values for name in group):
            kept |= {name: getattr(Flags, name) for name in idle}
    flags = Flags(**{**kept, **values, "out": output})
    if flags.det_threshold is not None and not 0 < flags.det_threshold < 1:
        raise InputError(
            f"det_threshold {flags.det_threshold:g}: expected a number above 0 and below 1"
        )
    if flags.face_index is not None and flags.face_index < 0:
        raise InputError(f"face_index {flags.face_index}: faces are counted from 0")
    try:
        choice, boxes = decide(flags, _fail)
    except typer.BadParameter as error:
        hint = error.param_hint if isinstance(error.param_hint, str) else ""
        raise InputError(f"{hint.strip(chr(39))}: {error.message}") from None
    return Planned(number, row.line or None, flags, choice, boxes, output)


def _fail(message: str) -> None:
    raise InputError(message)


def _output(given: str | None, portrait: str) -> str:
    """The file's name inside --out-dir: what the row says, or the first portrait's."""
    name = Path(portrait).stem if given is None else given.strip()
    if (
        not name
        or name != Path(name).name
        or name in (".", "..")
        or name.startswith(".")
        or "\\" in name
    ):
        raise InputError(
            f"out {name[:60]!r}: expected a file name, without folders, that does not start with a dot"
        )
    return name if name.endswith(ENDING) else f"{name}{ENDING}"


def _one_of(name: str, value: Any) -> Any:
    """The value itself, if its flag takes any or takes this one."""
    hint = get_type_hints(Flags)[name]
    kinds = [hint, *get_args(hint)]
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    if words and value not in words:
        raise InputError(f"{name} {str(value)[:40]!r}: expected one of {', '.join(words)}")
    return value
