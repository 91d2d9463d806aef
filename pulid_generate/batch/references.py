"""Whom the pictures of a row are compared with: from its --reference to files."""

from __future__ import annotations

from pathlib import Path

from pulid_generate.assembly.people import identity_files
from pulid_generate.errors import RequestError
from pulid_generate.flags.commands import BatchFlags

# of pictures that are looked for in a folder
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".heic", ".avif", ".bmp", ".tif", ".tiff")


def references_of(flags: BatchFlags) -> tuple[Path, ...]:
    """The pictures of the person. Of a folder, the one that is called as the person's file is;
    nothing for nobody, and for several people, who would be taken for one. Raises RequestError.
    """
    references: list[Path] = []
    for name in flags.reference or ():
        path = Path(name).expanduser()
        if not path.is_dir():
            references.append(path)
            continue
        people = identity_files(flags)
        if len(people) == 1:
            references.append(_portrait(path, Path(people[0]).stem, name))
    return tuple(references)


def _portrait(folder: Path, stem: str, name: str) -> Path:
    """The first picture of that stem. name: of the folder, as it was typed."""
    for path in sorted(folder.iterdir()):
        if path.stem == stem and path.suffix.lower() in SUFFIXES:
            return path
    raise RequestError(
        f"--reference {name}: holds no picture {stem}.png, .jpg or the like; add it, or name a "
        "picture"
    )
