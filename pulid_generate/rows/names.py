"""What the pictures of a batch are called: a pattern such as {row:04d}_{identity}_{seed}.png, or a
row's own `output`. Imports no torch.

Only plain names are understood, with Python's format of numbers and texts: a pattern reaches into
no object.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from pulid_generate.errors import OutputError, RequestError
from pulid_generate.flags.batch import DEFAULT_PATTERN
from pulid_generate.pictures.picture import format_of

# name -> an example, of the type that the pattern's format is tried with
EXAMPLES: dict[str, Any] = {
    "row": 1,
    "index": 0,
    "identity": "me",
    "seed": 42,
    "prompt": "in-the-rain",
    "weight": 1.0,
    "width": 512,
    "height": 512,
}
NOBODY = "nobody"
LONGEST_NAME = 235  # bytes: what file systems take, less what is put around it while it is written
LONGEST_WORD = 60  # characters of a prompt or of identities in a name
UNSAFE = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True)
class NamePattern:
    """Raises RequestError or OutputError for a pattern that cannot be."""

    text: str = DEFAULT_PATTERN

    def __post_init__(self) -> None:
        try:
            used = [
                (name, convert or "{" in str(spec))
                for _, name, spec, convert in string.Formatter().parse(self.text)
                if name is not None
            ]
        except ValueError as error:
            raise RequestError(
                f"--name {self.text}: {error}; expected such as {DEFAULT_PATTERN}"
            ) from None
        for name, more in used:
            if name not in EXAMPLES or more:
                raise RequestError(
                    f"--name {self.text}: {{{name}}} is not known; known: {', '.join(EXAMPLES)}"
                )
        try:
            example = self.text.format_map(EXAMPLES)
        except (ValueError, LookupError, OverflowError, MemoryError) as error:
            raise RequestError(
                f"--name {self.text}: {error}; expected such as {DEFAULT_PATTERN}"
            ) from None
        check_name(example, "--name")
        format_of(example)

    def name(self, facts: Mapping[str, Any]) -> str:
        """facts: a value for each of EXAMPLES; texts become fit for a file name."""
        return self.text.format_map(
            {
                name: as_word(value) if isinstance(value, str) else value
                for name, value in facts.items()
            }
        )


def as_word(text: str) -> str:
    """A text as a part of a file name: letters, digits and . + - _ of any script, at most 60
    characters.
    """
    return UNSAFE.sub("-", text)[:LONGEST_WORD].strip("-.") or "-"


def check_name(name: str, where: str = "output") -> PurePath:
    """A row's output: a path below --output-dir. Raises OutputError for one that leads out of
    it.
    """
    path = PurePath(name)
    if len(path.name.encode()) > LONGEST_NAME:
        raise OutputError(
            f"{where} {name[:60]!r}..: is longer than {LONGEST_NAME} bytes; give a shorter name"
        )
    if name == "-":
        raise OutputError(f"{where} -: pictures of a batch are files; give a file name")
    if (
        not path.name
        or path.is_absolute()
        or ".." in path.parts
        or "\0" in name
        or path.name.startswith(".")
    ):
        raise OutputError(
            f"{where} {name[:60]!r}: expected a file name below --output-dir that does not start with a dot"
        )
    return path


def identity_word(files: list[str]) -> str:
    """What {identity} stands for: the names of the files, without their endings."""
    return "+".join(Path(file).stem for file in files) or NOBODY
