"""Whom pictures are compared with, and whose face is whose: from --reference to files. Imports no
torch.
"""

from __future__ import annotations

from pathlib import Path

from pulid_extract.shared.file_names import path_of
from pulid_generate.assembly.people import identity_files
from pulid_generate.errors import RequestError
from pulid_generate.flags.commands.tables import Flags
from pulid_generate.request.people.identities import PersonSpec

# of pictures that are looked for in a folder
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".heic", ".avif", ".bmp", ".tif", ".tiff")


def references_of(flags: Flags) -> tuple[Path, ...]:
    """The pictures of the person. Of a folder, the one that is called as the person's file is;
    nothing for nobody, and for several people, who would be taken for one. Raises RequestError.
    """
    references: list[Path] = []
    for name in _named(flags):
        path = path_of(name)
        if not path.is_dir():
            references.append(path)
            continue
        people = identity_files(flags)
        if len(people) == 1:
            references.append(_portrait(path, Path(people[0]).stem, name))
    return tuple(references)


def own_references(flags: Flags, spec: PersonSpec, people: int) -> tuple[Path, ...]:
    """The pictures of one of so many people: those that are called as this person's file is, of a
    folder or by themselves; for a single person all that are named. Raises RequestError.
    """
    if people == 1:
        return references_of(flags)
    stem = Path(spec.file).stem
    own: list[Path] = []
    for name in _named(flags):
        path = path_of(name)
        if path.is_dir():
            own.append(_portrait(path, stem, name))
        elif path.stem == stem:
            own.append(path)
    return tuple(own)


def _named(flags: Flags) -> list[str]:
    """As typed; not every command has the flag."""
    return getattr(flags, "reference", None) or []


def _portrait(folder: Path, stem: str, name: str) -> Path:
    """The first picture of that stem. name: of the folder, as it was typed."""
    for path in sorted(folder.iterdir()):
        if path.stem == stem and path.suffix.lower() in SUFFIXES:
            return path
    raise RequestError(
        f"--reference {name}: holds no picture {stem}.png, .jpg or the like; add it, or name a "
        "picture"
    )
