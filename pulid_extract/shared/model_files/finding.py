"""The file for a role: by flag, in the models folder, in the Hugging Face cache, by download. Knows
no model.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pulid_extract.shared.errors import WeightsError
from pulid_extract.shared.model_files.headers import (
    COMPONENTS,
    PIPELINE_INDEX,
    Header,
    is_diffusers_folder,
    read_header,
)
from pulid_extract.shared.model_files.kinds import Role, Source, check_role, fills
from pulid_extract.shared.model_files.transfer import download

MODELS_DIR_VARIABLE = "PULID_MODELS_DIR"
MODEL_ENDINGS = (".safetensors", ".pt", ".pth", ".gguf")
# organisation/repository[/path in it], as on the Hugging Face hub
REPOSITORY = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:/(.+))?")
# transformers' and diffusers' names of the parts of one model
SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")


@dataclass(frozen=True)
class FoundFile:
    """A file or folder for a role, and the rule that found it."""

    path: Path
    # "flag", "all-in-one" (--model), "models folder", "hugging face cache" or "download"
    rule: str
    header: Header

    @property
    def name(self) -> str:
        """What to call it: a file's name without its ending, a folder's, a cached repository's."""
        if not self.path.is_dir():
            return self.path.stem
        parts = [part for part in self.path.resolve().parts if part.startswith("models--")]
        return parts[-1].split("--")[-1] if parts else self.path.resolve().name


def find(
    role: Role, explicit: str | Path | None = None, models_dir: str | Path | None = None
) -> FoundFile:
    """The file for a role, by the first rule that answers: flag, models folder, Hugging Face cache,
    download.

    Raises WeightsError if none does, if the file is of the wrong kind, or if the models folder
    holds two candidates.
    """
    if explicit is not None:
        return open_given(role, explicit)
    unreadable: list[str] = []
    if models_dir is not None:
        models_dir = Path(models_dir).expanduser()
        candidates = candidates_in(models_dir, role, unreadable)
        if len(candidates) > 1:
            listed = ", ".join(str(header.path) for header in candidates)
            raise WeightsError(
                f"{models_dir}: {len(candidates)} files can be the {role.name}: {listed}; choose "
                f"one with {role.flag}"
            )
        if candidates:
            return FoundFile(candidates[0].path, "models folder", candidates[0])
    stored, rule = cached(role.source), "hugging face cache"
    # one of these may be the file that was meant: say so before another copy is downloaded
    if stored is None and unreadable:
        raise WeightsError(
            f"{role.name}: none in {models_dir}, but {unreadable[0]}; or give {role.flag} FILE"
        )
    if stored is None and role.fetch and not is_offline():
        stored, rule = fetch(role, models_dir or downloads_dir()), "download"
    if stored is not None:
        header = read_header(stored)
        check_role(header, role)
        return FoundFile(stored, rule, header)
    searched = f" (not in {models_dir} either)" if models_dir else ""
    offline = ""
    if role.fetch and is_offline():
        offline = "; HF_HUB_OFFLINE is set, so it was not fetched"
    raise WeightsError(
        f"{role.name}: no file given{searched}{offline}; give {role.flag} FILE, from "
        f"{role.source.page}, or fetch it with `pull`"
    )


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
        path = _nested(path)
    elif not is_diffusers_folder(path) or not fills(read_header(path), role):
        path = _only_file(path, role)
    header = read_header(path)
    check_role(header, role)
    return FoundFile(header.path, "flag", header)


def _located(given: str | Path) -> Path:
    """The path that was meant: as it is, or inside the cached snapshot of
    "organisation/repository[/path in it]".
    """
    path = Path(given).expanduser()
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
    unreadable: list[str] = []
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in MODEL_ENDINGS and not SHARD.search(path.name)
    ]
    candidates = _filling(files, role, unreadable)
    if len(candidates) == 1:
        return candidates[0].path
    if candidates:
        listed = ", ".join(header.path.name for header in candidates)
        raise WeightsError(
            f"{folder}: {len(candidates)} files in it can be the {role.name}: {listed}; give "
            f"{role.flag} one of them"
        )
    if unreadable:
        raise WeightsError(unreadable[0])
    if is_diffusers_folder(folder):
        if read_header(folder).tensors:
            return folder
        raise WeightsError(
            f"{folder}: a diffusers folder without the weights of the {role.name} (.safetensors); "
            "download the whole repository"
        )
    raise WeightsError(f"{folder}: is a folder; {role.flag} wants a file: {role.source.page}")


def candidates_in(folder: Path, role: Role, unreadable: list[str]) -> list[Header]:
    """Every file or diffusers folder in a models folder and below whose header says it can fill the
    role.

    Files that cannot be read add their message to `unreadable`. Raises WeightsError if there is no
    such folder.
    """
    if not folder.is_dir():
        raise WeightsError(
            f"{folder}: the models folder does not exist; make it, or correct --models-dir or "
            f"{MODELS_DIR_VARIABLE}"
        )
    onnx_folders = {path.parent for path in folder.rglob("*.onnx")}
    pipelines = {path.parent for path in folder.rglob(PIPELINE_INDEX)}
    components = set()
    for pipeline in pipelines:
        components |= {pipeline / name for name in COMPONENTS}
    sharded = {path.parent for path in folder.rglob("*.safetensors.index.json")} - components
    # a file inside one of these folders is a piece of it, but for the whole files that Black Forest
    # Labs put beside a pipeline
    pieces = sharded | components
    paths = onnx_folders | pipelines | sharded
    for ending in MODEL_ENDINGS:
        paths |= {path for path in folder.rglob(f"*{ending}") if path.parent not in pieces}
    return _filling(sorted(paths), role, unreadable)


def _filling(paths: Iterable[Path], role: Role, unreadable: list[str]) -> list[Header]:
    candidates = []
    for path in paths:
        try:
            header = read_header(path)
        except WeightsError as error:
            unreadable.append(str(error))
            continue
        if fills(header, role):
            candidates.append(header)
    return candidates


def _nested(path: Path) -> Path:
    """antelopev2.zip unpacks to antelopev2/antelopev2/*.onnx: descend into the one nested
    folder.
    """
    if path.is_dir() and not any(path.glob("*.onnx")):
        inner = sorted({file.parent for file in path.glob("*/*.onnx")})
        if len(inner) == 1:
            return inner[0]
        raise WeightsError(
            f"{path}: the folder holds no .onnx files; expected scrfd_10g_bnkps.onnx and "
            "glintr100.onnx"
        )
    return path


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
        download(source.url, target, source.sha256)
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


def is_offline() -> bool:
    """True if the user forbade network calls, with the Hugging Face libraries' own variable."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
