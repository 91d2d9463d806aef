"""The file for a role: by flag, in the models folder, in the Hugging Face cache, by download. Knows
no model.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path

from pulid_extract.shared.errors import WeightsError
from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.model_files.candidates import (
    MODEL_ENDINGS,
    SHARD,
    Candidates,
    Fit,
    candidates_among,
    candidates_in,
    listed,
)
from pulid_extract.shared.model_files.headers import Header, is_diffusers_folder, read_header
from pulid_extract.shared.model_files.kinds import ANTELOPEV2_NETWORKS, kind_of
from pulid_extract.shared.model_files.roles import Role, Source, check_role, fills
from pulid_extract.shared.model_files.transfer import download
from pulid_extract.shared.model_files.walking import file_identity, files_below

MODELS_DIR_VARIABLE = "PULID_MODELS_DIR"
# whether `doctor` asks
_only_looking: ContextVar[bool] = ContextVar("only_looking", default=False)
# organisation/repository[/path in it], as on the Hugging Face hub
REPOSITORY = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:/(.+))?")


@dataclass(frozen=True)
class FoundFile:
    """A file or folder for a role, and the rule that found it."""

    path: Path
    # "flag", "all-in-one" (--model), "models folder", "hugging face cache" or "download"
    rule: str
    header: Header
    # what to say of a file that its flag alone allows, or ""
    warning: str = ""

    @property
    def name(self) -> str:
        """What to call it: a file's name without its ending, a folder's, a cached repository's."""
        if not self.path.is_dir():
            return self.path.stem
        parts = [part for part in self.path.resolve().parts if part.startswith("models--")]
        return parts[-1].split("--")[-1] if parts else self.path.resolve().name


class MissingFileError(WeightsError):
    """No rule found a file for a role."""

    def __init__(self, role: Role, searched: str):
        """searched: where it was looked for, as it stands behind "no file given"."""
        self.role, self.searched = role, searched
        super().__init__(self.line("fetch it with `pull`"))

    def line(self, way: str) -> str:
        """The message. way: how it is fetched."""
        return (
            f"{self.role.name}: no file given{self.searched}; give {self.role.flag} FILE, from "
            f"{self.role.source.page}, or {way}"
        )


def all_missing(
    missing: Sequence[MissingFileError], command: str, models_dir: str | Path | None
) -> WeightsError:
    """One error for every file that is missing. command: fetches them all."""
    if len(missing) == 1:
        return WeightsError(missing[0].line(f"run: {command}"))
    names = ", ".join(f"{error.role.name} ({error.role.flag})" for error in missing)
    where = f" in {models_dir}" if models_dir else ""
    unfetched = ""
    if any(error.role.fetch for error in missing) and is_offline():
        unfetched = "HF_HUB_OFFLINE is set, so they were not fetched; "
    return WeightsError(
        f"{len(missing)} model files are missing{where}: {names}; {unfetched}run: {command}; or "
        "name each with its flag"
    )


def find(
    role: Role,
    explicit: str | Path | None = None,
    models_dir: str | Path | None = None,
    fit: Fit | None = None,
) -> FoundFile:
    """The file for a role, by the first rule that answers: flag, models folder, Hugging Face cache,
    download.

    fit: says of a file in the models folder why it does not go with files chosen before it; such a
    file is no candidate. Raises WeightsError if no rule answers, if the file is of the wrong kind,
    or if the models folder holds two candidates.
    """
    if explicit is not None:
        return open_given(role, explicit)
    found = Candidates()
    if models_dir is not None:
        models_dir = path_of(models_dir)
        _check_folder(models_dir)
        found = candidates_in(models_dir, role, fit)
        if len(found.fitting) > 1:
            names = ", ".join(str(header.path) for header in found.fitting)
            raise WeightsError(
                f"{models_dir}: {len(found.fitting)} files can be the {role.name}: {names}; choose "
                f"one with {role.flag}, or for good with a line of pulid.toml under [models]: "
                f'{role.flag.lstrip("-")} = "{found.fitting[0].path}"'
            )
        if found.fitting:
            return FoundFile(found.fitting[0].path, "models folder", found.fitting[0])
    stored, rule = cached(role.source), "hugging face cache"
    # one of these may be the file that was meant: say so before another copy is downloaded
    if stored is None and found.damaged:
        several = ""
        if len(found.damaged) > 1:
            several = f"{len(found.damaged)} files there cannot be read: "
        raise WeightsError(
            f"{role.name}: none in {models_dir}, but {several}{listed(found.damaged)}; "
            f"or give {role.flag} FILE"
        )
    if stored is None and role.fetch and not is_offline():
        stored, rule = fetch(role, models_dir or downloads_dir()), "download"
    if stored is not None:
        header = read_header(stored)
        check_role(header, role)
        return FoundFile(stored, rule, header)
    searched = f" (not in {models_dir} either)" if models_dir else ""
    if found.mistaken:
        searched = f" (not in {models_dir} either: {listed(found.mistaken)})"
    if role.fetch and is_offline() and not _only_looking.get():
        searched += "; HF_HUB_OFFLINE is set, so it was not fetched"
    raise MissingFileError(role, searched)


def open_given(role: Role, given: str | Path) -> FoundFile:
    """What the user named for a role: a file, a folder as diffusers saves it, or a repository id
    that is in the Hugging Face cache.

    A folder that is not diffusers', or whose pipeline lacks the part, may hold one file that fills
    the role. Raises WeightsError.
    """
    path = _located(given)
    if not path.is_dir():
        _check_whole(path)
    elif "antelopev2 folder" in role.kinds:
        path = _face_pack(path)
    elif not is_diffusers_folder(path) or not fills(read_header(path), role):
        path = _only_file(path, role)
    header = read_header(path)
    if fills(header, replace(role, kinds=tuple(role.by_flag))):
        kind = kind_of(header).name
        warning = f"{header.path}: is a {kind}: {role.by_flag[kind]}"
        return FoundFile(header.path, "flag", header, warning)
    check_role(header, role)
    return FoundFile(header.path, "flag", header)


def _check_folder(folder: Path) -> None:
    """Raise WeightsError if there is no such models folder."""
    if not folder.is_dir():
        raise WeightsError(
            f"{folder}: the models folder does not exist{_where(folder)}; make it, or correct "
            f"--models-dir or {MODELS_DIR_VARIABLE}"
        )


def _where(folder: Path) -> str:
    """Where a relative name was looked for: whoever changed the folder sees it there."""
    if folder.is_absolute():
        return ""
    return f" in {Path.cwd()}, where a relative name starts (in pulid.toml: beside that file)"


def _located(given: str | Path) -> Path:
    """The path that was meant: as it is, or inside the cached snapshot of
    "organisation/repository[/path in it]".
    """
    path = path_of(given)
    match = REPOSITORY.fullmatch(str(given))
    if path.exists() or not match or (path.suffix in MODEL_ENDINGS and match[2] is None):
        return path
    from huggingface_hub import snapshot_download

    try:
        snapshot = Path(snapshot_download(match[1], local_files_only=True))
    except (OSError, ValueError):
        raise WeightsError(
            f"{given}: no such file or folder, and no repository of that name in the Hugging Face "
            f"cache; if it is one, run 'hf download {match[1]}'"
        ) from None
    inside = snapshot / match[2] if match[2] else snapshot
    if not inside.exists():
        raise WeightsError(
            f"{given}: the cached repository has no {match[2]}; run 'hf download {match[1]} "
            f"{match[2]}'"
        )
    return inside


def _check_whole(path: Path) -> None:
    """Refuse one part of a sharded model: its header alone looks like the model's."""
    if SHARD.search(path.name):
        raise WeightsError(
            f"{path}: is one part of a model in several files; give the folder, {path.parent}"
        )


def _only_file(folder: Path, role: Role) -> Path:
    """The one file directly in a folder that can fill the role; the folder itself if it is
    diffusers' (it will be refused by name).
    """
    files = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in MODEL_ENDINGS and not SHARD.search(path.name):
            files.append(path)
    found = candidates_among(files, role)
    if len(found.fitting) == 1:
        return found.fitting[0].path
    if found.fitting:
        names = ", ".join(header.path.name for header in found.fitting)
        raise WeightsError(
            f"{folder}: {len(found.fitting)} files in it can be the {role.name}: {names}; give "
            f"{role.flag} one of them"
        )
    if found.damaged:
        raise WeightsError(listed(found.damaged))
    if is_diffusers_folder(folder):
        if read_header(folder).tensors:
            return folder
        raise WeightsError(
            f"{folder}: a diffusers folder without the weights of the {role.name} (.safetensors); "
            "download the whole repository"
        )
    raise WeightsError(f"{folder}: is a folder; {role.flag} wants a file: {role.source.page}")


def _face_pack(given: Path) -> Path:
    """The pack that a folder means: antelopev2 in it or below, wherever its zip or another program
    has put it; else the pack that it is, or the only one below.
    """
    if not given.is_dir():
        return given
    packs: dict[object, Path] = {}
    for file in files_below(given):
        if file.suffix.lower() == ".onnx":
            packs.setdefault(file_identity(file.parent), file.parent)
    folders = sorted(packs.values())
    published = [pack for pack in folders if _is_antelopev2(pack)]
    if given in folders and not published:
        return given
    choice = published or folders
    if len(choice) == 1:
        return choice[0]
    if choice:
        names = ", ".join(str(pack) for pack in choice)
        raise WeightsError(f"{given}: holds {len(choice)} face packs: {names}; give one of them")
    raise WeightsError(
        f"{given}: the folder holds no .onnx files; expected {' and '.join(ANTELOPEV2_NETWORKS)}"
    )


def _is_antelopev2(folder: Path) -> bool:
    return all((folder / network).is_file() for network in ANTELOPEV2_NETWORKS)


def cached(source: Source) -> Path | None:
    """The file (or, for several, their folder) if it was downloaded before; no network call."""
    if source.url:
        path = downloads_dir() / source.url.rsplit("/", 1)[-1]
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    paths = [try_to_load_from_cache(source.repo, file) for file in source.files]
    if not all(isinstance(path, str) for path in paths):
        return None
    return _whole([Path(str(path)) for path in paths])


def fetch(role: Role, folder: Path) -> Path:
    """Download a role's file: from the hub into the hub's cache, from a plain url into `folder`.
    Raises WeightsError.
    """
    source = role.source
    if source.url:
        target = folder / source.url.rsplit("/", 1)[-1]
        try:
            download(source.url, target, source.sha256)
        except WeightsError as error:
            raise WeightsError(f"{role.name}: {error}, or give {role.flag} FILE") from None
        return target
    from huggingface_hub import hf_hub_download

    # it tells of every retry; the error below says it once
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return _whole([Path(hf_hub_download(source.repo, file)) for file in source.files])
    # huggingface_hub's own errors are OSErrors or ValueErrors
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(
            f"{role.name}: download from {source.page} failed ({reason}); give {role.flag} FILE"
        ) from None


def _whole(paths: list[Path]) -> Path:
    return paths[0] if len(paths) == 1 else paths[0].parent


def downloads_dir() -> Path:
    """Where files that are not on the Hugging Face hub are kept: beside the hub's own cache."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "pulid"


@contextlib.contextmanager
def fetching_nothing() -> Iterator[None]:
    """Within it what is missing is only looked for, and is not said to be the user's setting."""
    token = _only_looking.set(True)
    try:
        yield
    finally:
        _only_looking.reset(token)


def is_offline() -> bool:
    """True if the user forbade network calls, with the Hugging Face libraries' own variable."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
