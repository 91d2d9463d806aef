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

from pulid_generate.errors import OutputNameError, RequestError
from pulid_generate.flags.commands.batch import DEFAULT_PATTERN
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
# bytes: what file systems take, less what is put around it while it is written
LONGEST_NAME = 235
# of all folders together, below one that has a name as well
LONGEST_PATH = 2000
# characters of a prompt or of identities in a name
LONGEST_WORD = 60
# a width or a precision that no name has room for
WIDE = re.compile(r"\d{4,}")
UNSAFE = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True)
class NamePattern:
    """Raises RequestError or OutputNameError for an invalid pattern."""

    text: str = DEFAULT_PATTERN

    def __post_init__(self) -> None:
        where = f"--name {self.text}"
        try:
            parts = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise RequestError(f"{where}: {error}; expected such as {DEFAULT_PATTERN}") from None
        for _, name, spec, conversion in parts:
            if name is None:
                continue
            if name not in EXAMPLES or conversion or "{" in str(spec):
                raise RequestError(
                    f"{where}: {{{name}}} is not known; known: {', '.join(EXAMPLES)}"
                )
            # before Python makes a text of that width
            if WIDE.search(str(spec)):
                raise OutputNameError(
                    f"{where}: {{{name}:{spec}}} is wider than {LONGEST_NAME} bytes; give a "
                    "shorter name"
                )
        try:
            example = self.text.format_map(EXAMPLES)
        except (ValueError, LookupError, OverflowError, MemoryError) as error:
            raise RequestError(f"{where}: {error}; expected such as {DEFAULT_PATTERN}") from None
        check_name(example, "--name")
        format_of(example)

    def name(self, facts: Mapping[str, Any]) -> str:
        """facts: a value for each of EXAMPLES; texts become fit for a file name."""
        values = {}
        for name, value in facts.items():
            values[name] = as_word(value) if isinstance(value, str) else value
        return self.text.format_map(values)


def as_word(text: str) -> str:
    """A text as a part of a file name: letters, digits and . + - _ of any script, at most 60
    characters.
    """
    return UNSAFE.sub("-", text)[:LONGEST_WORD].strip("-.") or "-"


def check_name(name: str, where: str = "output") -> PurePath:
    """A row's output: a path below --output-dir. Raises OutputNameError for one that leads out of
    it.
    """
    path = PurePath(name)
    try:
        # bytes that are no UTF-8 are names as well
        parts = [part.encode(errors="surrogateescape") for part in path.parts]
    except UnicodeEncodeError:
        raise OutputNameError(
            f"{where} {name[:60]!r}: holds half a character; give another name"
        ) from None
    if any(len(part) > LONGEST_NAME for part in parts) or sum(map(len, parts)) > LONGEST_PATH:
        raise OutputNameError(
            f"{where} {name[:60]!r}..: is longer than {LONGEST_NAME} bytes; give a shorter name"
        )
    if name == "-":
        raise OutputNameError(f"{where} -: pictures of a batch are files; give a file name")
    leads_out = path.is_absolute() or ".." in path.parts
    if leads_out or not path.name or path.name.startswith(".") or "\0" in name:
        raise OutputNameError(
            f"{where} {name[:60]!r}: expected a file name below --output-dir that does not start "
            "with a dot"
        )
    return path


def identity_word(files: list[str]) -> str:
    """What {identity} stands for: the names of the files, without their endings."""
    return "+".join(Path(file).stem for file in files) or NOBODY
