"""Kits of model files into one models folder: what is there, what is missing, what is fetched. What
both programs' `pull` does.

Knows files, roles and licences by the table it is given; knows no model and no command line. The
rule that makes it more than a loop: files are recognised by their headers, and two candidates for
one role are an error of every later command, so a role that the folder already fills is left alone.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from pulid_extract.shared.errors import OutputError, PulidError, WeightsError
from pulid_extract.shared.model_files.candidates import candidates_in
from pulid_extract.shared.model_files.finding import MODELS_DIR_VARIABLE, is_offline
from pulid_extract.shared.model_files.headers import read_header
from pulid_extract.shared.model_files.meter import Meter, size_text
from pulid_extract.shared.model_files.roles import Role, Source, check_role
from pulid_extract.shared.model_files.transfer import (
    Remote,
    ask,
    file_sha256,
    part_of,
    parts_in,
    transfer,
)
from pulid_extract.shared.writing import make_folder

# bytes of the disk that stay free
RESERVE = 64 << 20
# formats whose kind is not told apart here
HEADERLESS = (".onnx", ".model")
# bytes that show a page
START = 64
PAGES = (b"<", b"version https://git-lfs")
Log = Callable[[str], None]
PullStatus = Literal["refused", "present", "skipped", "missing", "fetched", "failed"]


@dataclass(frozen=True)
class KitItem:
    """One file of a kit."""

    # for messages
    name: str
    # with exactly one file, or a url
    source: Source
    # bytes, for the plan; the server's own number is what counts later
    size: int
    # where below the models folder
    folder: str = ""
    # which other files in the folder make this one superfluous; None: those named in `or_else`
    role: Role | None = None
    or_else: tuple[str, ...] = ()
    # whether the page asks for terms to be accepted
    gated: bool = False
    # whether the kit is named for it: another file in its role is an error then, not a saving
    own: bool = False

    @property
    def file_name(self) -> str:
        """What it is called in the models folder."""
        return (self.source.url or self.source.files[0]).rsplit("/", 1)[-1]

    def path_in(self, models_dir: Path) -> Path:
        """Where it belongs."""
        return models_dir / self.folder / self.file_name

    @property
    def terms(self) -> str:
        """The licence, and what it asks for."""
        if not self.gated:
            return self.source.licence
        page = f"https://huggingface.co/{self.source.repo}"
        return f"{self.source.licence}; gated, accept the terms at {page}"


@dataclass(frozen=True)
class PullOutcome:
    """What is known of one item, or was done with it."""

    item: KitItem
    path: Path
    # present: whole. skipped: another file fills its role. missing: to be fetched.
    # refused: it would fail
    status: PullStatus
    # a reason or a remark, for people
    why: str = ""
    # lower-case hex, "" where it was not computed
    sha256: str = ""

    def line(self) -> str:
        """For people."""
        size = self.path.stat().st_size if self.path.is_file() else self.item.size
        about = "" if self.path.is_file() else "about "
        why = f"  ({self.why})" if self.why else ""
        return f"{self.status:<8} {about + size_text(size):>14}  {self.path}{why}"

    def as_dict(self) -> dict[str, object]:
        """JSON values, in the order in which they are printed."""
        size = self.path.stat().st_size if self.path.is_file() else self.item.size
        return {
            "name": self.item.name,
            "status": self.status,
            "path": str(self.path),
            "bytes": size,
            "sha256": self.sha256 or None,
            "from": self.item.source.url or f"{self.item.source.repo}/{self.item.source.files[0]}",
            "licence": self.item.source.licence,
            "gated": self.item.gated,
            "why": self.why or None,
        }


def plan(items: Iterable[KitItem], models_dir: Path, force: bool = False) -> list[PullOutcome]:
    """What is there and what is missing, without a network call. force: fetch although the role is
    filled or the file is damaged.
    """
    return [_look(item, models_dir, force) for item in items]


def _look(item: KitItem, models_dir: Path, force: bool) -> PullOutcome:
    path = item.path_in(models_dir)
    others = [str(other) for other in _others(item, path, models_dir)]
    if path.is_file():
        sha256, wrong = _check(item, path)
        if wrong:
            return PullOutcome(item, path, "missing" if force else "failed", wrong)
        return PullOutcome(item, path, "present", _ambiguous(item, others), sha256)
    if not others or force:
        begun = sum(part.stat().st_size for part in parts_in(path))
        notes = []
        if others:
            notes.append(f"beside {', '.join(others)}")
        if begun:
            notes.append(f"{size_text(begun)} of it have been fetched before")
        return PullOutcome(item, path, "missing", "; ".join(notes))
    if item.own and item.role:
        why = (
            f"{others[0]} is already the {item.name}, and two would make every command ask which; "
            f"take another --models-dir, or --force and then choose with {item.role.flag}"
        )
        return PullOutcome(item, path, "failed", why)
    return PullOutcome(item, path, "skipped", f"{others[0]} is already the {item.name}")


def _ambiguous(item: KitItem, others: list[str]) -> str:
    """What to say of a file beside which others fill the same role."""
    if not others or item.role is None:
        return ""
    return f"{', '.join(others)} can be the {item.name}, too: choose with {item.role.flag}"


def _others(item: KitItem, path: Path, models_dir: Path) -> list[Path]:
    """Other files of the folder that fill the item's role."""
    if item.role is None:
        return [models_dir / name for name in item.or_else if (models_dir / name).is_file()]
    if not models_dir.is_dir():
        return []
    candidates = [header.path for header in candidates_in(models_dir, item.role).fitting]
    return [other for other in candidates if other not in (path, path.parent)]


def _check(item: KitItem, path: Path) -> tuple[str, str]:
    """(SHA-256 where the table has one to compare, what is wrong with the file or "")."""
    if item.source.sha256:
        sha256 = file_sha256(path, Meter(f"checking {path.name}"))
        if sha256 == item.source.sha256:
            return sha256, ""
        wrong = (
            f"is there with SHA-256 {sha256[:12]}.., expected {item.source.sha256[:12]}..; "
            "delete it, or --force replaces it"
        )
        return sha256, wrong
    try:
        _verify(item, path)
    except WeightsError as error:
        return "", f"is there, but {str(error).removeprefix(f'{path}: ')}; --force replaces it"
    return "", ""


def _verify(item: KitItem, path: Path) -> None:
    """Raise WeightsError for what is not the file it should be: a truncated one, another model, the
    login page of a proxy.
    """
    if item.file_name.endswith(HEADERLESS):
        with open(path, "rb") as file:
            check_start(str(path), file.read(START))
    elif item.role is None:
        read_header(path)
    else:
        check_role(read_header(path), item.role)


def check_start(name: str, start: bytes) -> None:
    """Raise WeightsError for a file without a header of its own that is empty or begins as a page
    does.
    """
    start = start.lstrip()
    if not start or start.startswith(PAGES):
        raise WeightsError(f"{name}: {'is an HTML page, not the file' if start else 'is empty'}")


def free_bytes(folder: Path) -> int:
    """Free space on the disk that holds, or will hold, a folder."""
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def pull(
    outcomes: Iterable[PullOutcome], models_dir: Path, log: Log, pause: float = 1.0
) -> Iterator[PullOutcome]:
    """Fetch what a plan says is missing; every outcome as it is known. One that fails does not stop
    the others.

    All servers are asked for sizes first, so that a full disk, a gate or a missing file is known
    before gigabytes are moved. Raises WeightsError if network calls are forbidden and something is
    missing, OutputError if the disk is too small.
    """
    outcomes = list(outcomes)
    missing = [outcome for outcome in outcomes if outcome.status == "missing"]
    if missing and is_offline():
        names = ", ".join(outcome.item.file_name for outcome in missing)
        raise WeightsError(
            f"HF_HUB_OFFLINE is set: no network call was made; missing: {names}; unset it and pull "
            "again"
        )
    make_folder(models_dir, advice="name another --models-dir")
    remotes: dict[Path, Remote | PulidError] = {}
    for outcome in missing:
        try:
            remotes[outcome.path] = ask(outcome.item.source)
        except PulidError as error:
            remotes[outcome.path] = error
    _check_disk(models_dir, remotes)
    for outcome in outcomes:
        remote = remotes.get(outcome.path)
        if isinstance(remote, PulidError):
            yield PullOutcome(outcome.item, outcome.path, "failed", str(remote))
        elif remote is None:
            yield outcome
        else:
            yield _fetch(outcome, remote, models_dir, log, pause)


def _check_disk(models_dir: Path, remotes: dict[Path, Remote | PulidError]) -> None:
    needed = 0
    for path, remote in remotes.items():
        if isinstance(remote, Remote):
            part = part_of(path, remote)
            begun = part.stat().st_size if part.is_file() else 0
            needed += max(0, (remote.size or 0) - begun)
    check_room(models_dir, needed, "fetched")


def check_room(models_dir: Path, needed: int, what: str) -> None:
    """Raise OutputError if the disk of the models folder is too small. needed: bytes. what: is to
    become of them, "fetched" or "unpacked".
    """
    free = free_bytes(models_dir)
    if needed and needed + RESERVE > free:
        raise OutputError(
            f"{models_dir}: {size_text(needed)} are to be {what}, {size_text(free)} are free; make "
            "room or name another --models-dir"
        )


def _fetch(
    outcome: PullOutcome, remote: Remote, models_dir: Path, log: Log, pause: float
) -> PullOutcome:
    item, path = outcome.item, outcome.path
    log(f"{path.name}: {item.terms}, from {item.source.page}")
    try:
        sha256 = transfer(
            remote,
            path,
            lambda: ask(item.source),
            item.source.sha256,
            Meter(path.name),
            partial(_verify, item),
            pause,
        )
    except PulidError as error:
        return PullOutcome(item, path, "failed", str(error))
    # of a fetch that was forced
    others = [str(other) for other in _others(item, path, models_dir)]
    return PullOutcome(item, path, "fetched", _ambiguous(item, others), sha256)


def raise_failures(outcomes: Iterable[PullOutcome]) -> None:
    """Raise WeightsError, in one line, if any item failed."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if len(failed) == 1:
        raise WeightsError(f"{failed[0].item.file_name}: {failed[0].why}")
    if failed:
        names = ", ".join(outcome.item.file_name for outcome in failed)
        raise WeightsError(
            f"{len(failed)} files could not be fetched: {names}; the list on standard output says "
            "why of each"
        )


def carry_out(
    outcomes: Iterable[PullOutcome],
    models_dir: Path,
    dry_run: bool,
    log: Callable[[str], None],
    tell: Callable[[PullOutcome], None],
) -> None:
    """Fetch what is missing, unless this is only to look, and tell of each file as it is done.
    Raises WeightsError if one failed.
    """
    done = []
    if not dry_run:
        outcomes = pull(outcomes, models_dir, log)
    for outcome in outcomes:
        # a dry run fails at nothing: it says what would not be fetched, and why
        if dry_run and outcome.status == "failed":
            outcome = replace(outcome, status="refused")
        done.append(outcome)
        tell(outcome)
    for line in closing_lines(done, models_dir, dry_run):
        log(line)
    raise_failures(done)


def closing_lines(outcomes: Iterable[PullOutcome], models_dir: Path, dry_run: bool) -> list[str]:
    """For standard error: what a dry run would fetch, on what terms and onto what disk; else how
    the next command finds the folder.
    """
    outcomes = list(outcomes)
    missing = [outcome for outcome in outcomes if outcome.status == "missing"]
    if dry_run:
        lines = []
        for outcome in missing:
            terms = f"{outcome.item.terms}, from {outcome.item.source.page}"
            lines.append(f"{outcome.path.name}: {terms}")
        size = size_text(sum(outcome.item.size for outcome in missing))
        free = size_text(free_bytes(models_dir))
        return [*lines, f"to fetch: about {size}; free where {models_dir} is: {free}"]
    if any(outcome.status == "failed" for outcome in outcomes):
        return []
    return [
        "all there; the other commands find it with: export "
        f"{MODELS_DIR_VARIABLE}={shlex.quote(str(models_dir.absolute()))}"
    ]
