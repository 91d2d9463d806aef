"""TODO"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pulid_extract.shared.records import FORMS, MAX_BYTES, Problem
from pulid_extract.shared.writing import check_writable, make_folder
from pulid_generate.errors import InputError
from pulid_generate.flags.commands import BatchFlags
from pulid_generate.rows.grid import grid
from pulid_generate.rows.items import Item
from pulid_generate.rows.manifest import Row, read_manifest

if TYPE_CHECKING:
    pass


def read_rows(flags: BatchFlags) -> tuple[list[Row], list[Problem]]:
    if flags.manifest is None:
        return grid(flags.prompts, flags.identities, flags.seeds), []
    path = Path(flags.manifest).expanduser()
    form = path.suffix.lower()
    if form not in FORMS:
        raise InputError(f"{flags.manifest}: expected a manifest that ends in {' or '.join(FORMS)}")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{flags.manifest}: cannot be read ({error.strerror or error})") from None
    return read_manifest(data, flags.manifest, form, path.parent)


def make_folders(items: Sequence[Item]) -> None:
    """The folders of the pictures, without what a killed run left half-written in them. Raises
    OutputError.
    """
    names: dict[Path, set[str]] = {}
    for item in items:
        names.setdefault(item.path.parent, set()).add(item.path.name)
    for folder, ours in names.items():
        make_folder(folder)
        for path in folder.glob(".*.part"):
            if path.name[1:].rsplit(".", 2)[0] in ours:
                path.unlink(missing_ok=True)
        check_writable(folder / next(iter(ours)))


def count(things: Sequence[object] | int, noun: str) -> str:
    count = things if isinstance(things, int) else len(things)
    return f"{count} {noun}{'s' * (count != 1)}"
