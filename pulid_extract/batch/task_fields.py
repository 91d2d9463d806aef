"""A task of `pulid-extract worker`: a line of JSON, read into fields. Opens no file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pulid_extract.batch.manifest import COLUMNS
from pulid_extract.shared import records
from pulid_extract.shared.errors import InputError

EXAMPLE = '{"task": "extract", "portrait": ["me.jpg"], "out": "me.pulidembd"}'
# pictures that a task may have written -> their fields among the flags
PICTURES = ("preview", "face_image", "crop_image")
# columns of a manifest that a task has otherwise
NOT_COLUMNS = ("portrait", "portraits", "out")


def parse_task(data: bytes) -> dict[str, Any]:
    """One line of JSON. Raises InputError."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("is not UTF-8; expected one JSON object in each line") from None
    record = records.json_record(text, EXAMPLE)
    return {name: value for name, value in record.items() if value is not None}


def take_flag(task: dict[str, Any], name: str) -> bool:
    """Take a field that is true or false out of a task; one that is not there is false. Raises
    InputError.
    """
    value = task.pop(name, False)
    if not isinstance(value, bool):
        raise InputError(f"{name}: expected true or false")
    return value


def people_of(value: object) -> dict[str, list[str]]:
    """Who is looked for, name -> references. Raises InputError."""
    try:
        if not isinstance(value, dict):
            raise ValueError("an object")
        people = {str(name): references_of(paths) for name, paths in value.items()}
    except (ValueError, TypeError):
        people = {"": []}
    if not all(people.values()):
        raise InputError(
            'people: expected an object of lists of pictures, such as {"ada": ["ada.jpg"]}'
        )
    return people


def references_of(value: object) -> list[str]:
    """Names of pictures of one person. Raises ValueError, TypeError."""
    paths = records.texts(value)
    # tasks come on standard input
    if "-" in paths:
        raise ValueError("-")
    return paths


def values_of(task: Mapping[str, Any]) -> dict[str, Any]:
    """A task's fields as the command line would give them. Raises InputError."""
    values: dict[str, Any] = {}
    wrong = []
    for name, value in task.items():
        try:
            if name in ("portrait", "names"):
                values[name] = records.texts(value)
            elif name in PICTURES:
                values[name] = records.text(value)
            elif name in COLUMNS and name not in NOT_COLUMNS:
                values[name] = COLUMNS[name][0](value)
            else:
                wrong.append(f"unknown field {name[:40]!r}")
        except (ValueError, TypeError, OverflowError):
            expected = COLUMNS[name][1] if name in COLUMNS else "the name of a picture"
            wrong.append(f"{name} {str(value)[:60]!r}: expected {expected}")
    if wrong:
        raise InputError("; ".join(wrong))
    if not values.get("portrait") or "-" in values["portrait"]:
        raise InputError("portrait: expected a list of names of pictures")
    # tasks come on standard input
    if values.get("mask") == "-":
        raise InputError("mask: expected the name of a picture")
    return values
