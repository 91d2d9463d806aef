"""One file over the network: asked for, streamed into a `.part` beside its place, resumed after an
interruption, checked, renamed.

Knows addresses and bytes; knows nothing of models, kits or command lines. huggingface_hub supplies
addresses, tokens, the session (proxies, certificates) and its words for a refusal. The bytes are
streamed here because its own downloads can no longer be resumed: huggingface_hub 2.4.0
file_download.py, _download_to_tmp_and_move, deletes what it has.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from pulid_extract.shared.errors import OutputError, PulidError, WeightsError
from pulid_extract.shared.locking import try_lock
from pulid_extract.shared.model_files.meter import Meter, Show, size_text
from pulid_extract.shared.model_files.roles import Source

# bytes that are read at once to be hashed
HASH_CHUNK = 8 << 20
# seconds without a byte
TIMEOUT = 60.0
# in a row without a byte
ATTEMPTS = 5
RETRIED = (408, 425, 429, 500, 502, 503, 504)
# a server that answers GET alone: its size is not known beforehand
NO_HEAD = (405, 501)
# what a signed address answers after its hour; a fresh one is asked for
EXPIRED = (401, 403)


@dataclass(frozen=True)
class Remote:
    """A file as its server describes it."""

    url: str
    # bytes, None if unsaid
    size: int | None
    # lower-case hex, "" if unsaid
    sha256: str
    # changes when the file changes; parts of another version are not resumed
    tag: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """For messages: the address without what signs it."""
        return self.url.split("?")[0]


class AddressExpired(Exception):
    """The address is no longer good; ask for a new one."""


# ------------------------------------------------------------------------------------------- asking


def ask(source: Source) -> Remote:
    """Size, hash and address of a source's one file; one HEAD call. Raises WeightsError: gated, not
    there, no connection.
    """
    try:
        return _ask_url(source.url) if source.url else _ask_hub(source.repo, source.files[0])
    except PulidError:
        raise
    # httpx's errors have no base in common with OSError, and its name differs between versions
    except Exception as error:
        raise WeightsError(
            f"{source.page}: cannot be reached ({_reason(error)}); check the connection and try "
            "again"
        ) from None


def _ask_hub(repo: str, file: str) -> Remote:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
    )
    from huggingface_hub.utils import build_hf_headers, get_token

    page = f"https://huggingface.co/{repo}"
    url = hf_hub_url(repo, file, endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        metadata = get_hf_file_metadata(url)
    except GatedRepoError:
        access = "your token has no access to it" if get_token() else "no token is set"
        raise WeightsError(
            f"{repo}: is gated, and {access}: accept the terms at {page}, then run 'hf auth login' "
            "and pull again"
        ) from None
    except RemoteEntryNotFoundError:
        raise WeightsError(
            f"{repo}: holds no {file} any more (404); look for it at {page} and put it into the "
            "models folder"
        ) from None
    except RepositoryNotFoundError:
        raise WeightsError(
            f"{repo}: no such repository, or not for you (401): look at {page}; if it asks for "
            "terms, accept them and run 'hf auth login'"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in EXPIRED:
            raise WeightsError(
                f"{repo}: access refused ({status}): accept the terms at {page}, then run 'hf auth "
                "login' and pull again"
            ) from None
        raise WeightsError(f"{page}: the hub answers {status}; try again later") from None
    tag = (metadata.etag or "").lower()
    # of a file in large storage the hub's tag is its SHA-256: huggingface_hub hf_hub_url, "Notes"
    sha256 = tag if len(tag) == 64 else ""
    headers = {}
    # the token never goes to the storage behind the hub
    if urlsplit(metadata.location).netloc == urlsplit(url).netloc:
        token = build_hf_headers().get("authorization")
        if token:
            headers["authorization"] = token
    return Remote(metadata.location, metadata.size, sha256, tag, headers)


def _ask_url(url: str) -> Remote:
    from huggingface_hub import get_session

    response = get_session().head(
        url, headers={"accept-encoding": "identity"}, timeout=TIMEOUT, follow_redirects=True
    )
    if response.status_code in NO_HEAD:
        return Remote(url, None, "", "")
    if response.status_code >= 400:
        raise WeightsError(
            f"{url}: the server answers {response.status_code}; fetch it by hand into the models "
            "folder"
        )
    size = response.headers.get("content-length")
    tag = response.headers.get("etag", "") or str(size)
    return Remote(url, int(size) if size else None, "", tag)


# ----------------------------------------------------------------------------------------- fetching


def download(url: str, target: Path, sha256: str = "", pause: float = 1.0) -> None:
    """Fetch a plain address to `target`. Raises WeightsError, OutputError; what has arrived is kept
    for the next time.
    """
    source = Source(url=url)
    transfer(ask(source), target, lambda: ask(source), sha256, Meter(target.name), pause=pause)


def transfer(
    remote: Remote,
    target: Path,
    again: Callable[[], Remote] | None = None,
    sha256: str = "",
    show: Show = lambda done, total: None,
    check: Callable[[Path], object] = lambda part: None,
    pause: float = 1.0,
) -> str:
    """Stream a file to `target` by way of `target.<tag>.part`, from where an earlier try ended.
    Returns its SHA-256.

    again: asks for the address anew after an interruption, since signed addresses expire. sha256:
    expected; else the server's own, if it gives one. show: called with bytes done and in all.
    check: raises a PulidError for what is not a file of its kind, before it gets its name. pause:
    seconds before the first repetition, doubled each time. Raises WeightsError (the part stays,
    unless its bytes are proven wrong), OutputError (disk).
    """
    expected = sha256 or remote.sha256
    part = part_of(target, remote)
    with _written(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    for other in parts_in(target):
        # of another version of this file
        if other != part:
            other.unlink()
    with _Part(part, target) as file:
        if remote.size is not None and file.done > remote.size:
            file.start_over()
        failures = 0
        while not (file.done == remote.size or file.complete):
            before = file.done
            show(file.done, remote.size)
            try:
                _stream(remote, file, show)
            except (PulidError, KeyboardInterrupt):
                raise
            # connection, timeout, protocol: see `ask`
            except Exception as error:
                failures = 1 if file.done > before else failures + 1
                if failures >= ATTEMPTS:
                    total = size_text(remote.size) if remote.size else "an unknown size"
                    raise WeightsError(
                        f"{remote.name}: broke off after {size_text(file.done)} of {total} "
                        f"({_reason(error)}); run the same command again, it resumes there"
                    ) from None
                time.sleep(pause * 2 ** (failures - 1))
                if again is not None:
                    # the next try says what is wrong
                    with contextlib.suppress(WeightsError):
                        fresh = again()
                        if fresh.tag == remote.tag:
                            remote = fresh
        show(file.done, remote.size)
        actual = file.digest.hexdigest()
        if expected and actual != expected:
            part.unlink()
            raise WeightsError(
                f"{remote.name}: SHA-256 is {actual}, expected {expected}; what came "
                "was deleted, try again later"
            )
        file.flush()
        try:
            check(part)
        except PulidError as error:
            part.unlink()
            raise WeightsError(f"{remote.name}: {str(error).removeprefix(f'{part}: ')}") from None
        with _written(target):
            part.replace(target)
    return actual


def part_of(target: Path, remote: Remote) -> Path:
    """Where an unfinished download of this very version lies."""
    return target.with_name(
        f"{target.name}.{hashlib.sha256(remote.tag.encode()).hexdigest()[:8]}.part"
    )


def parts_in(target: Path) -> list[Path]:
    """Every unfinished download of a file, of whatever version."""
    start = f"{target.name}."
    return [
        path
        for path in target.parent.glob("*.part")
        if path.name.startswith(start) and path.name.count(".", len(start)) == 1
    ]


def file_sha256(path: Path, show: Show = lambda done, total: None) -> str:
    """Lower-case hex, as `sha256sum` prints it. Raises WeightsError for a file that cannot be
    read.
    """
    digest, done = hashlib.sha256(), 0
    try:
        total = path.stat().st_size
        with open(path, "rb") as file:
            while chunk := file.read(HASH_CHUNK):
                digest.update(chunk)
                done += len(chunk)
                show(done, total)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from None
    return digest.hexdigest()


class _Part:
    """An unfinished file: appended to, hashed as it grows, owned by one process."""

    def __init__(self, path: Path, target: Path):
        self.path, self.target, self.complete = path, target, False
        self.digest, self.done = hashlib.sha256(), 0

    def __enter__(self) -> _Part:
        with _written(self.target):
            self.file: BinaryIO = open(self.path, "a+b")
        _lock(self.file, self.target)
        self.file.seek(0)
        while chunk := self.file.read(HASH_CHUNK):
            self.digest.update(chunk)
            self.done += len(chunk)
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
        if self.done == 0 and error[0] is not None:
            self.path.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        with _written(self.target):
            self.file.write(chunk)
        self.digest.update(chunk)
        self.done += len(chunk)

    def start_over(self) -> None:
        self.file.truncate(0)
        self.digest, self.done = hashlib.sha256(), 0

    def flush(self) -> None:
        with _written(self.target):
            self.file.flush()
            os.fsync(self.file.fileno())


def _stream(remote: Remote, file: _Part, show: Show) -> None:
    """One GET from where the part ends. Raises whatever the connection raises; a connection that
    ends early raises, too.
    """
    from huggingface_hub import get_session

    headers = {**remote.headers, "accept-encoding": "identity"}
    if file.done:
        headers["range"] = f"bytes={file.done}-"
    with get_session().stream(
        "GET", remote.url, headers=headers, timeout=TIMEOUT, follow_redirects=True
    ) as response:
        status = response.status_code
        if status in EXPIRED or status in RETRIED:
            raise AddressExpired(f"the server answers {status}")
        if status == 416 or (status == 206 and not _starts_at(response, file.done)):
            file.start_over()
            raise AddressExpired("the server's file has another length")
        if status >= 400:
            raise WeightsError(
                f"{remote.name}: the server answers {status}; fetch it by hand into "
                f"{file.target.parent}"
            )
        # a server without ranges sends it all again
        if status == 200 and file.done:
            file.start_over()
        # as they come: what has arrived is kept when the next does not
        for chunk in response.iter_bytes():
            file.write(chunk)
            show(file.done, remote.size)
    if remote.size is not None and file.done != remote.size:
        if file.done > remote.size:
            file.start_over()
        raise AddressExpired(f"the connection ended at {file.done} of {remote.size} bytes")
    file.complete = True


def _starts_at(response: Any, start: int) -> bool:
    return response.headers.get("content-range", "").startswith(f"bytes {start}-")


def _lock(file: BinaryIO, target: Path) -> None:
    """Two processes that append to one part would both be wrong; where there are no locks the
    SHA-256 tells.
    """
    if not try_lock(file.fileno()):
        file.close()
        raise WeightsError(f"{target}: another process is fetching it; wait for it or stop it")


@contextlib.contextmanager
def _written(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = ""
        if error.errno == errno.ENOSPC:
            hint = "; free some space and run the command again, it resumes"
        raise OutputError(
            f"{target}: cannot be written ({error.strerror or error}){hint}"
        ) from None


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
