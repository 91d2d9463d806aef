"""The folders that a batch writes to. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pulid_extract.shared.writing import check_writable, make_folder
from pulid_generate.rows.items import Item


def make_folders(items: Sequence[Item]) -> None:
    """Make the folders of the pictures, and remove what a killed run left half-written in them.
    Raises OutputError.
    """
    names: dict[Path, set[str]] = {}
    for item in items:
        names.setdefault(item.path.parent, set()).add(item.path.name)
    for folder, ours in names.items():
        make_folder(folder)
        for path in folder.glob(".*.part"):
            # .NAME.RANDOM.part, as write_atomically calls it
            if path.name[1:].rsplit(".", 2)[0] in ours:
                path.unlink(missing_ok=True)
        check_writable(folder / next(iter(ours)))
