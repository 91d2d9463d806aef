"""The folders of a server's own files, and sentences without them: where models lie is no concern
of a visitor's, who hears of a file by its name. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from pulid_generate.files.model_set import ModelFiles


def own_folders(flags: Any, files: ModelFiles) -> tuple[Path, ...]:
    """Of all that the flags of a server name, a dataclass, and of the models that were found; the
    longest first, so that of two that lie in each other the inner one goes.
    """
    named = [found.path for _, found in files.by_role()]
    named.append(files.t5_tokenizer)
    if files.tiny is not None:
        named.append(files.tiny.path)
    for field in fields(flags):
        named += _paths(getattr(flags, field.name))
    found = set()
    for path in named:
        found |= {path, path.resolve()} if path.is_dir() else {path.parent, path.resolve().parent}
    # of a name without a folder, and of the whole disk
    found -= {Path(), Path("/")}
    return tuple(sorted(found, key=lambda folder: len(str(folder)), reverse=True))


def _paths(value: object) -> Iterator[Path]:
    """What is there of the files and folders that a flag names."""
    for text in value if isinstance(value, (list, tuple)) else (value,):
        if not isinstance(text, str) or "\0" in text:
            continue
        try:
            if Path(text).exists():
                yield Path(text)
        # a prompt may be longer than a name can be
        except OSError:
            continue


def without_folders(text: str, folders: Iterable[Path]) -> str:
    """A sentence whose files are called by their names: those of these folders, see `own_folders`.
    The user's own folder is ~ where anything else lies in it.
    """
    for folder in folders:
        text = text.replace(f"{folder}/", "").replace(str(folder), folder.name)
    home = Path.home()
    return text.replace(f"{home}/", "~/") if home != Path("/") else text
