"""The grid of `pulid-generate batch`: every prompt of a file, with every identity of a folder, with
every seed. Knows no flag and no model; gives the same rows as a manifest. Imports no torch.
"""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

from pulid_extract.shared.file_names import path_of
from pulid_generate.errors import InputError, RequestError
from pulid_generate.request.prompts.prompt import read_prompt_file
from pulid_generate.rows.row import Row

ENDING = ".pulidembd"
MAX_ROWS = 1_000_000
RANGE = re.compile(r"(\d{1,19})(?:-(\d{1,19}))?")

# what one value of an axis is called, and the fields that it sets
Choice = tuple[str, dict[str, Any]]


def grid_rows(prompts: str | None, identities: str | None, seeds: str | None) -> list[Row]:
    """The rows, prompts outermost and seeds innermost. What is None is left to the command's flags.

    prompts: a UTF-8 file with one in each line. identities: a folder of .pulidembd files, or one
    file. seeds: "1-4,7". Raises InputError or RequestError.
    """
    axes: list[list[Choice]] = []
    if prompts is not None:
        lines = read_prompts(prompts)
        axes.append([(f"{prompts} line {line}", {"prompt": text}) for line, text in lines])
    if identities is not None:
        files = identities_in(identities)
        axes.append([(path.name, {"pulid_id_embedding": str(path)}) for path in files])
    if seeds is not None:
        axes.append([(f"seed {seed}", {"seed": seed}) for seed in parse_seeds(seeds)])
    count = math.prod(len(axis) for axis in axes)
    if count > MAX_ROWS:
        raise RequestError(f"the grid has {count} rows; the most is {MAX_ROWS}, split it")

    rows = []
    for number, choices in enumerate(itertools.product(*axes), 1):
        values: dict[str, Any] = {}
        for _, part in choices:
            values |= part
        label = ", ".join(label for label, _ in choices)
        rows.append(Row(number, None, f"row {number} ({label})", values))
    return rows


def read_prompts(path: str) -> list[tuple[int, str]]:
    """(line number, prompt) of every line that is not empty. Raises InputError."""
    lines = read_prompt_file(path).split("\n")
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def identities_in(name: str) -> list[Path]:
    """The .pulidembd files of a folder, by name; a file is itself. Raises InputError."""
    path = path_of(name)
    if path.is_file():
        return [path]
    try:
        files = sorted(file for file in path.iterdir() if file.suffix == ENDING)
    except OSError as error:
        raise InputError(
            f"--identities {name}: cannot be read ({error.strerror or error}); expected a folder"
        ) from None
    files = [file for file in files if not file.name.startswith(".")]
    if not files:
        raise InputError(
            f"--identities {name}: holds no {ENDING} file; make some with 'pulid-extract batch'"
        )
    return files


def parse_seeds(text: str) -> list[int]:
    """[1, 2, 3, 4, 7] of "1-4,7". Raises RequestError for anything else, and for a seed that is
    there twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = RANGE.fullmatch(part.strip())
        if match is None:
            raise RequestError(
                f"--seeds {text}: {part.strip()!r} is not a seed; expected such as 1-4,7"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise RequestError(f"--seeds {text}: {part.strip()} counts down; write {last}-{first}")
        if len(seeds) + last - first >= MAX_ROWS:
            raise RequestError(f"--seeds {text}: more than {MAX_ROWS} seeds")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise RequestError(f"--seeds {text}: a seed is given twice")
    return seeds
