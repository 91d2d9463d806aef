"""Results, written beside and renamed: whole or not at all, and never over an input. Knows nothing
of what is written.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from pulid_extract.shared.errors import OutputError

# how often a file is written if somebody removes it while it is: another run that tidies up
TRIES = 3


def make_folder(folder: str | Path, *, flag: str = "", advice: str = "", mode: int = 0o777) -> Path:
    """Make a folder and those above it; one that exists stays as it is. Returns it.

    flag: what named it, for the message. advice: what to do if it cannot be made, for the message.
    mode: permission bits of every new folder, before the umask: who may write into a folder may
    exchange what is in it. Raises OutputError.
    """
    folder = Path(folder)
    if folder.is_dir():
        return folder
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
            beside = _beside(path)
            try:
                os.close(_opened(beside, path, 0o600))
            finally:
                beside.unlink(missing_ok=True)
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
    path: str | Path,
    data: bytes | Iterable[bytes],
    mode: int | None = None,
    *,
    follow_link: bool = True,
) -> None:
    """Write beside `path`, flush to disk, rename: an existing file is replaced whole or not at all.

    mode: permission bits of the new file; None leaves what the umask gives. follow_link: write
    where a symbolic link leads; False replaces the link itself. Raises OutputError.
    """
    path = _target_of(Path(path)) if follow_link else Path(path)
    chunks = [data] if isinstance(data, bytes) else data
    try:
        if _is_special(path) and (follow_link or not path.is_symlink()):
            with open(path, "wb") as file:
                file.writelines(chunks)
            return
        tries = TRIES if isinstance(data, bytes) else 1
        while not _replaced(path, chunks, mode):
            tries -= 1
            if not tries:
                raise OutputError(
                    f"{path}: cannot be written (another program removes the new file); "
                    "run one program on this folder at a time"
                )
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from None


def write_together(files: Mapping[Path, bytes], mode: int | None = None) -> None:
    """As `write_atomically`, several files that belong together: all of them are on the disk before
    the first gets its name, so that a full one leaves all as they were. Raises OutputError.
    """
    # target -> what will be renamed to it
    besides: dict[Path, Path] = {}
    path = Path()
    try:
        for name, data in files.items():
            path = _target_of(name)
            if _is_special(path):
                write_atomically(path, data, mode)
                continue
            # named before it is made, so that no signal in between leaves it behind
            besides[path] = _beside(path)
            _fill(besides[path], path, [data], mode)
        for path, beside in besides.items():
            beside.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        for beside in besides.values():
            beside.unlink(missing_ok=True)


def _replaced(path: Path, chunks: Iterable[bytes], mode: int | None) -> bool:
    """Write beside and rename; False if the new file was gone by then. Raises OutputError,
    OSError.
    """
    beside = _beside(path)
    # named before it is made, so that no signal in between leaves it behind
    try:
        try:
            _fill(beside, path, chunks, mode)
            beside.replace(path)
        except FileNotFoundError:
            return False
        return True
    finally:
        beside.unlink(missing_ok=True)


def _fill(beside: Path, path: Path, chunks: Iterable[bytes], mode: int | None) -> None:
    """Make the file that will be `path`. Raises OutputError, OSError."""
    with open(_opened(beside, path, 0o666 if mode is None else mode), "wb") as file:
        file.writelines(chunks)
        file.flush()
        os.fsync(file.fileno())
    # the umask may have taken what was asked for
    if mode is not None:
        beside.chmod(mode)


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


def _beside(path: Path) -> Path:
    """A name that nobody else has: .NAME.RANDOM.part, which who tidies up looks for."""
    return path.parent / f".{path.name}.{secrets.token_hex(4)}.part"


def _opened(beside: Path, path: Path, mode: int) -> int:
    """A descriptor of the new file. Raises OutputError, which names `path`."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        return os.open(beside, flags, mode)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); check that the folder exists "
            "and is writable"
        ) from None
