"""`pulid-generate inspect FILE..`: parse, describe, print. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from pulid_extract.shared.cli import console
from pulid_extract.shared.errors import PulidError, WeightsError
from pulid_extract.shared.file_names import path_of
from pulid_generate.inspection.inspect import files_of
from pulid_generate.inspection.inspect import inspect as describe
from pulid_generate.inspection.report import Inspection


def inspect(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="Model files or folders, identities (.pulidembd), pictures (PNG, JPEG, WebP).",
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON for each file.")
    ] = False,
) -> None:
    """Say what each file is, from its header alone: kind, layout, types of its numbers, parameters,
    memory when loaded.

    Reads any model file, all-in-one checkpoints and diffusers folders, identities and pictures of
    pulid-generate. A folder of models is shown file by file. A file that is damaged or of no known
    kind is one line, and exit code 1 once all the others are shown.
    """
    failed: list[PulidError] = []
    for path, found in _each(files):
        if isinstance(found, Inspection):
            console.write_line(json.dumps(found.as_dict()) if as_json else f"{found.as_text()}\n")
            continue
        failed.append(found)
        if as_json:
            console.write_line(json.dumps({"path": str(path), "error": str(found)}))
        elif len(files) > 1:
            console.log(f"failed: {found}")
    if len(failed) == 1 and len(files) == 1:
        raise failed[0]
    if failed:
        raise WeightsError(f"{len(failed)} of the files cannot be shown; the first: {failed[0]}")


def _each(files: list[str]) -> Iterator[tuple[Path, Inspection | PulidError]]:
    for name in files:
        path = path_of(name)
        try:
            members = files_of(path)
        except PulidError as error:
            yield path, error
            continue
        for member in members:
            try:
                yield member, describe(member)
            except PulidError as error:
                yield member, error
