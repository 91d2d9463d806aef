"""The rows of a batch, every one judged before a file is looked for. Loads nothing. Imports no
torch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer

from pulid_extract.batch.manifest import ManifestRow, read_manifest
from pulid_extract.faces.choice import FaceChoice
from pulid_extract.flags.batch import BatchFlags
from pulid_extract.flags.extract import ONE_PORTRAIT, ExtractFlags
from pulid_extract.flags.face_choice import face_and_boxes
from pulid_extract.pictures.portrait import pictures_in
from pulid_extract.pictures.regions import FaceBox
from pulid_extract.shared.cli import console
from pulid_extract.shared.errors import InputError
from pulid_extract.shared.records import FORMS, MAX_BYTES, Problem

ENDING = ".pulidembd"
# columns with which no detector runs, and columns that leave nothing to be counted
BY_HAND = ("face_box", "landmarks")
WITHOUT_ORDER = ("face_at", *BY_HAND)


@dataclass(frozen=True)
class BatchRow:
    """One row that was judged."""

    # from 1
    number: int
    # of the manifest, None for a folder's picture
    line: int | None
    flags: ExtractFlags
    choice: FaceChoice
    boxes: tuple[FaceBox, ...]
    # the file's name inside --out-dir
    output: str

    @property
    def name(self) -> str:
        """For messages."""
        if self.line is not None:
            return f"line {self.line}"
        return str((self.flags.portrait or [""])[0])


def plan_rows(flags: BatchFlags) -> tuple[list[BatchRow], list[Problem]]:
    """(rows, problems). Raises InputError for what is neither a folder nor a manifest."""
    manifest_rows, problems, base = _read_rows(flags.rows)
    defaults = {}
    for item in fields(ExtractFlags):
        if hasattr(flags, item.name):
            defaults[item.name] = getattr(flags, item.name)
    rows: list[BatchRow] = []
    # some file systems take A and a for one name
    names_by_output: dict[str, str] = {}
    for number, manifest_row in enumerate(manifest_rows, 1):
        try:
            row = _judged(number, manifest_row, defaults, base)
        except InputError as error:
            if manifest_row.line:
                problems.append(Problem.of_line(manifest_row.line, error))
            else:
                # a folder's picture, whose name is in the message
                problems.append(Problem(str(error)))
            continue
        first = names_by_output.setdefault(row.output.casefold(), row.name)
        if first != row.name:
            taken = f"would be written to {row.output}, as {first} is; give each its own 'out'"
            problems.append(Problem(f"{row.name}: {taken}", row.line or 0))
        rows.append(row)
    return rows, problems


def _read_rows(given: str) -> tuple[list[ManifestRow], list[Problem], Path]:
    """(rows, problems, folder that their names start from)."""
    if given != "-" and Path(given).is_dir():
        pictures, skipped = pictures_in(given)
        if skipped:
            console.log(f"{given}: {len(skipped)} skipped, not pictures by their names")
        rows = [ManifestRow(0, {"portrait": [str(picture)]}) for picture in pictures]
        return rows, [], Path()
    if given == "-":
        return *read_manifest(_read_bytes(given), "standard input", ".jsonl"), Path()
    form = Path(given).suffix.lower()
    if form not in FORMS:
        raise InputError(
            f"{given}: expected a folder of pictures, or a manifest that ends in "
            f"{' or '.join(FORMS)}"
        )
    return *read_manifest(_read_bytes(given), given, form), Path(given).parent


def _read_bytes(given: str) -> bytes:
    """Of a manifest, "-" for standard input; a byte more than it may have, if it has more. Raises
    InputError.
    """
    try:
        if given != "-":
            with open(given, "rb") as file:
                return file.read(MAX_BYTES + 1)
        return sys.stdin.buffer.read(MAX_BYTES + 1) if sys.stdin is not None else b""
    # ValueError: a NUL in the name
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{given}: cannot be read ({reason})") from None


def _judged(
    number: int, manifest_row: ManifestRow, defaults: Mapping[str, Any], base: Path
) -> BatchRow:
    """Raises InputError for values that are wrong by themselves or do not go together."""
    values = dict(manifest_row.values)
    portraits = values["portrait"]
    output = _output_name(values.pop("out", None), portraits[0])
    if "-" in portraits:
        raise InputError("portrait -: rows are files; standard input holds one picture at most")
    if manifest_row.line and len(portraits) > 1:
        for name in ONE_PORTRAIT:
            if name in values:
                raise InputError(
                    f"{name} is about the pixels of one portrait; {len(portraits)} are named"
                )
    values["portrait"] = [str(base / path) for path in portraits]
    if "mask" in values:
        values["mask"] = str(base / values["mask"])
    flags, choice, boxes = judged_flags({**values, "out": output}, defaults)
    return BatchRow(number, manifest_row.line or None, flags, choice, boxes, output)


def judged_flags(
    values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[ExtractFlags, FaceChoice, tuple[FaceBox, ...]]:
    """The flags of one extraction, its own `values` over the command's, and what they choose.
    Raises InputError as `_judged`.
    """
    for name, value in values.items():
        _check_word(name, value)
    flags = ExtractFlags(**{**_defaults_for(values, defaults), **values})
    if flags.det_threshold is not None and not 0 < flags.det_threshold < 1:
        raise InputError(
            f"det_threshold {flags.det_threshold:g}: expected a number above 0 and below 1"
        )
    if flags.face_index is not None and flags.face_index < 0:
        raise InputError(f"face_index {flags.face_index}: faces are counted from 0")
    try:
        choice, boxes = face_and_boxes(flags, _fail)
    except typer.BadParameter as error:
        flag = error.param_hint if isinstance(error.param_hint, str) else ""
        raise InputError(f"{flag.strip(chr(39))}: {error.message}") from None
    return flags, choice, boxes


def _defaults_for(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The command line's values, without those whose place the row's own choice of face takes."""
    kept = dict(defaults)
    if any(name in values for name in WITHOUT_ORDER):
        kept["face_order"] = ExtractFlags.face_order
    if any(name in values for name in BY_HAND):
        kept["det_threshold"] = ExtractFlags.det_threshold
        kept["aligner"] = ExtractFlags.aligner
    return kept


def _fail(message: str) -> None:
    raise InputError(message)


def _output_name(given: str | None, portrait: str) -> str:
    """The file's name inside --out-dir: what the row says, or the first portrait's. Raises
    InputError.
    """
    name = Path(portrait).stem if given is None else given.strip()
    is_plain = name == Path(name).name and "\\" not in name
    if not name or not is_plain or name.startswith("."):
        raise InputError(
            f"out {name[:60]!r}: expected a file name, without folders, that does not start with a "
            "dot"
        )
    return name if name.endswith(ENDING) else f"{name}{ENDING}"


def _check_word(name: str, value: Any) -> None:
    """Raise InputError if the flag takes certain words and this is none of them."""
    hint = get_type_hints(ExtractFlags)[name]
    words: list[str] = []
    for kind in (hint, *get_args(hint)):
        if get_origin(kind) is Literal:
            words += get_args(kind)
    if words and value not in words:
        raise InputError(f"{name} {str(value)[:40]!r}: expected one of {', '.join(words)}")
