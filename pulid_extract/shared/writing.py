"""Results, written beside and renamed: whole or not at all, and never over an input. Knows nothing
of what is written.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pulid_extract.shared.errors import OutputError


def make_folder(folder: str | Path, *, flag: str = "", advice: str = "", mode: int = 0o777) -> Path:
    """Make a folder and those above it; one that exists stays as it is. Returns it.

    flag: what named it, for the message. advice: what to do if it cannot be made, for the message.
    mode: permission bits of every new folder, before the umask: who may write into a folder may
    exchange what is in it. Raises OutputError.
    """
    folder = Path(folder)
    try:
        for parent in reversed(folder.parents):
            if not parent.exists():
                parent.mkdir(exist_ok=True, mode=mode)
        folder.mkdir(exist_ok=True, mode=mode)
    except (OSError, ValueError) as error:
        where = f"{flag} {folder}".strip()
        after = f"; {advice}" if advice else ""
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{where}: cannot be made ({reason}){after}") from None
    return folder


def check_writable(path: str | Path) -> None:
    """Raise OutputError now if a later `write_atomically(path)` cannot work, before minutes of work
    are spent.
    """
    path = _target_of(Path(path))
    try:
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; give a file name")
        if not _is_special(path):
            _make_beside(path).unlink()
    except OSError as error:  # a name that is too long
        raise OutputError(
            f"{str(path)[:80]}: cannot be written ({error.strerror or error}); give another name"
        ) from None


def check_not_input(output: str | Path, inputs: Iterable[str | Path]) -> None:
    """Raise OutputError if writing `output` would replace one of the files that are read. Folders
    among them stand for their files.
    """
    output = Path(output)
    if not output.is_file():
        return
    for path in map(Path, inputs):
        files = path.iterdir() if path.is_dir() else [path]
        if any(file.is_file() and output.samefile(file) for file in files):
            raise OutputError(f"{output}: is read as an input; give another name")


def write_atomically(
    path: str | Path, data: bytes | Iterable[bytes], mode: int | None = None
) -> None:
    """Write beside `path`, flush to disk, rename: an existing file is replaced whole or not at all.

    mode: permission bits of the new file; None leaves what the umask gives. Raises OutputError.
    """
    path = _target_of(Path(path))
    chunks = [data] if isinstance(data, bytes) else data
    beside = None if _is_special(path) else _make_beside(path)
    try:
        if beside is None:
            with open(path, "wb") as file:
                file.writelines(chunks)
            return
        with open(beside, "wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        if mode is None:
            umask = os.umask(0)
            os.umask(umask)
            mode = 0o666 & ~umask
        beside.chmod(mode)
        beside.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def _target_of(path: Path) -> Path:
    """Where a symbolic link leads, so that what it names is written and the link stays; any other
    path as it is.
    """
    # a name that is too long is no link either; what writes it says so
    if not os.path.islink(path) or _is_special(path):
        return path
    return Path(os.path.realpath(path))


def _is_special(path: Path) -> bool:
    """A device or a pipe (/dev/null, /dev/stdout, <(...)): renaming over it would replace the
    device itself.
    """
    return path.exists() and not path.is_file()


def _make_beside(path: Path) -> Path:
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); check that the folder exists "
            "and is writable"
        ) from None
    os.close(handle)
    return Path(name)
