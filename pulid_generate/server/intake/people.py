"""Who can be named in a request: the folder of identities, what a visitor saved, and the tags
`<id:NAME:WEIGHT>` of a prompt. Imports no torch.

A name is looked up among the names that are there; no path is ever made of it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pulid_generate.errors import RequestError
from pulid_generate.server.settings import MAX_NAME

SUFFIX = ".pulidembd"
TAG = re.compile(r"<id:([^:<>]+)(?::([^:<>]*))?>")
TAG_START = re.compile(r"<\s*id\s*:", re.IGNORECASE)
# letters, digits and marks inside a name; commas and = end a name in an identity's text
NAME = re.compile(r"\w(?:[\w .()+-]*[\w)])?")
SHOWN = 5


@dataclass(frozen=True)
class PersonTag:
    """One `<id:NAME:WEIGHT>`."""

    name: str
    weight: str


def check_name(name: str) -> str:
    """The name of a file or a person that a request brings. Raises RequestError."""
    if len(name) > MAX_NAME or not NAME.fullmatch(name) or ".." in name:
        raise RequestError(
            f"name {name[:MAX_NAME]!r}: expected at most {MAX_NAME} letters, digits, spaces and "
            ". - _ ( ) +, beginning with a letter or a digit"
        )
    return name


def take_tags(prompt: str) -> tuple[str, list[PersonTag]]:
    """The prompt without its tags, and the tags. Raises RequestError for what only begins like
    one: the text encoders would read it as words.
    """
    tags = []
    for match in TAG.finditer(prompt):
        tags.append(PersonTag(match[1].strip(), (match[2] or "1").strip()))
    text = TAG.sub("", prompt)
    if left := TAG_START.search(text):
        raise RequestError(
            f"prompt: {text[left.start() :][:40]!r} is not a tag; expected <id:NAME:WEIGHT>"
        )
    return (text.strip() if tags else text), tags


class People:
    """The identities of some folders, the first one's before the next one's."""

    def __init__(self, folders: Iterable[Path | None]):
        self.folders = [folder for folder in folders if folder is not None]

    def files(self) -> dict[str, Path]:
        """name -> its .pulidembd, sorted by name."""
        found: dict[str, Path] = {}
        for folder in self.folders:
            if not folder.is_dir():
                continue
            for path in folder.iterdir():
                if path.suffix == SUFFIX and path.is_file():
                    found.setdefault(path.stem, path)
        return dict(sorted(found.items()))

    def find(self, name: str) -> Path:
        """Raises RequestError for a name that is not there."""
        files = self.files()
        wanted = name.removesuffix(SUFFIX)
        if wanted in files:
            return files[wanted]
        near = difflib.get_close_matches(wanted, files, SHOWN) or list(files)[:SHOWN]
        there = f"there are {', '.join(near)}" if near else "no identity is there"
        raise RequestError(f"identity {wanted[:MAX_NAME]!r}: nobody has this name; {there}")
