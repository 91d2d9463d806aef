"""Where the rows of `pulid-generate batch` come from: its manifest, or its grid. Imports no
torch.
"""

from __future__ import annotations

from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.records import FORMS, MAX_BYTES, Problem
from pulid_generate.errors import InputError
from pulid_generate.flags.commands.tables import BatchFlags
from pulid_generate.rows.grid import grid_rows
from pulid_generate.rows.manifest import read_manifest
from pulid_generate.rows.row import Row


def read_rows(flags: BatchFlags) -> tuple[list[Row], list[Problem]]:
    """Every row that can be read, and what is wrong with the others. Raises InputError,
    RequestError.
    """
    if flags.manifest is None:
        return grid_rows(flags.prompts, flags.identities, flags.seeds), []
    path = path_of(flags.manifest)
    form = path.suffix.lower()
    if form not in FORMS:
        prompts = "; a text of prompts, one a line, goes with --prompts" if form == ".txt" else ""
        raise InputError(
            f"{flags.manifest}: expected a manifest that ends in {' or '.join(FORMS)}{prompts}"
        )
    try:
        with open(path, "rb") as file:
            # one byte more than is taken, to know what is larger
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{flags.manifest}: cannot be read ({error.strerror or error})") from None
    return read_manifest(data, flags.manifest, form, path.parent)
