"""What the server was told, checked once; and its limits on everything that comes in. Imports no
torch.
"""

from __future__ import annotations

import hashlib
import ipaddress
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.writing import make_folder
from pulid_generate.errors import InputError, OutputError, RequestError
from pulid_generate.flags.commands.tables import ServeFlags

# bytes of a request, whatever it holds
MAX_BODY = 64 << 20
# seconds in which all of a request must have come
BODY_SECONDS = 60.0
# files that come with one request, and characters of a file's or a person's name
MAX_FILES, MAX_NAME = 16, 80
# characters of a prompt
MAX_PROMPT = 8000
# requests for faces, crops and identities that may wait for the one process that reads portraits,
# and seconds that one may take
MAX_EXTRACTIONS, EXTRACTION_SECONDS = 8, 300.0
# finished jobs of nobody's session are forgotten after so many seconds, or when there are more
FORGET_SECONDS, MAX_FINISHED = 3600.0, 1000
# seconds after which a visitor's session is over, counted from its last request
SESSION_SECONDS = 24 * 3600.0
# of all visitors
MAX_SESSIONS = 1000
# jobs that one visitor's gallery keeps, and identities that it saves
MAX_GALLERY, MAX_SAVED = 500, 100
# bytes that the disk of the output folder must have free for another picture: one of a few
# megapixels as a PNG that does not shrink, its record, and what came with the request
MIN_FREE = 128 << 20
# seconds that the picture in work has to be finished in once the server is to stop
STOP_SECONDS = 600.0
LOOPBACK_NAMES = ("localhost",)


@dataclass(frozen=True)
class Settings:
    """The server's own flags, read."""

    host: str
    port: int
    # of pictures and waiting jobs
    folder: Path
    # of identities that requests may name
    identities: Path | None
    studio: bool
    # whether pictures stay when the server ends
    keep: bool
    # SHA-256 of each key that is answered; nobody needs one if there are none
    keys: frozenset[bytes]
    # names that requests may be addressed to, in lower case, without a port
    hosts: frozenset[str]
    # origins whose pages may send requests
    origins: frozenset[str]
    max_queue: int
    max_pictures: int
    max_megapixels: float
    max_steps: int
    idle_seconds: float
    extract_flags: tuple[str, ...]


def read_settings(flags: ServeFlags) -> Settings:
    """The settings of the flags; makes the folder of pictures, for the user alone.

    Raises RequestError for an address that needs a key, InputError for a file or folder that is not
    there, OutputError for a folder that cannot be made.
    """
    keys = _read_keys(flags.api_key_file)
    if not keys and not is_loopback(flags.host):
        raise RequestError(
            f"--host {flags.host}: others could reach it there; give --api-key-file FILE with a "
            "key in each line, or leave --host out"
        )
    identities = None
    if flags.identities is not None:
        identities = path_of(flags.identities)
        if not identities.is_dir():
            raise InputError(f"--identities {identities}: no such folder")
    try:
        extract_flags = shlex.split(flags.extract_flags)
    except ValueError as error:
        raise RequestError(f"--extract-flags: {error}; expected flags as in a shell") from None
    if flags.models_dir and "--models-dir" not in extract_flags:
        extract_flags += ["--models-dir", flags.models_dir]
    # who keeps the server off the card means its portraits as well; a number of a card is for Flux
    if flags.device == "cpu" and "--device" not in extract_flags:
        extract_flags += ["--device", "cpu"]
    names = {flags.host, *LOOPBACK_NAMES, *(flags.allow_host or ())}
    return Settings(
        host=flags.host,
        port=flags.port,
        folder=_private_folder(path_of(flags.output_dir)),
        identities=identities,
        studio=flags.studio,
        keep=flags.keep,
        keys=keys,
        hosts=frozenset(name.lower() for name in names),
        origins=frozenset(origin.rstrip("/").lower() for origin in flags.allow_origin or ()),
        max_queue=flags.max_queue,
        max_pictures=flags.max_pictures,
        max_megapixels=flags.max_megapixels,
        max_steps=flags.max_steps,
        idle_seconds=flags.idle_minutes * 60,
        extract_flags=tuple(extract_flags),
    )


def disk_problem(folder: Path) -> str | None:
    """Why the next picture may find no room in the output folder: a sentence without folders; None
    if there is enough, or if nobody can tell.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return None
    if free >= MIN_FREE:
        return None
    return (
        f"the disk of --output-dir has {free >> 20} MiB free; a picture with its record may need "
        f"{MIN_FREE >> 20} MiB: make room there"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host.lower() in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_keys(path: str | None) -> frozenset[bytes]:
    if path is None:
        return frozenset()
    where = f"--api-key-file {path}"
    try:
        lines = path_of(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: cannot be read ({error})") from None
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        raise InputError(f"{where}: holds no key; write one in each line")
    if min(map(len, keys)) < 16:
        raise InputError(f"{where}: a key has fewer than 16 characters and could be guessed")
    return frozenset(hashlib.sha256(key.encode()).digest() for key in keys)


def _private_folder(folder: Path) -> Path:
    made = make_folder(folder, flag="--output-dir", mode=0o700).resolve()
    if made.stat().st_mode & 0o077:
        try:
            # one that was there before is left alone if others use it
            empty = not any(made.iterdir())
        except OSError as error:
            raise OutputError(f"--output-dir {folder}: cannot be read ({error.strerror})") from None
        if not empty:
            raise OutputError(
                f"--output-dir {folder}: others may read it; name a new folder, or run "
                f"chmod 700 {folder}"
            )
        made.chmod(0o700)
    return made
