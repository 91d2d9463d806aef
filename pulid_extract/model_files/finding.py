"""The file for a role: by flag, in the models folder, in the Hugging Face cache, by download. Knows no model."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pulid_extract.errors import WeightsError
from pulid_extract.model_files.headers import Header, read_header
from pulid_extract.model_files.kinds import Role, Source, check_role
from pulid_extract.model_files.writing import write_atomically

MODELS_DIR_VARIABLE = "PULID_MODELS_DIR"


@dataclass(frozen=True)
class Found:
    """A file for a role, and the rule that found it: "flag", "models folder", "hugging face cache" or "download"."""

    path: Path
    rule: str
    header: Header


def find(role: Role, explicit: str | Path | None = None, models_dir: str | Path | None = None) -> Found:
    """The file for a role, by the first rule that answers: flag, models folder, Hugging Face cache, download.

    Raises WeightsError if none does, if the file is of the wrong kind, or if the models folder holds two candidates.
    """
    if explicit is not None:
        path = Path(explicit).expanduser()
        if path.is_dir() and "antelopev2 folder" not in role.kinds:
            raise WeightsError(f"{path}: is a folder; {role.flag} wants a file: {role.source.page}")
        header = read_header(_nested(path))
        check_role(header, role)
        return Found(header.path, "flag", header)
    unreadable: list[str] = []
    if models_dir is not None:
        models_dir = Path(models_dir).expanduser()
        candidates = candidates_in(models_dir, role, unreadable)
        if len(candidates) > 1:
            listed = ", ".join(str(header.path) for header in candidates)
            raise WeightsError(
                f"{models_dir}: {len(candidates)} files can be the {role.name}: {listed}; choose one with {role.flag}"
            )
        if candidates:
            return Found(candidates[0].path, "models folder", candidates[0])
    stored, rule = cached(role.source), "hugging face cache"
    if stored is None and unreadable:  # one of these may be the file that was meant: say so before another copy is downloaded
        raise WeightsError(f"{role.name}: none in {models_dir}, but {unreadable[0]}; or give {role.flag} FILE")
    if stored is None and role.fetch and not is_offline():
        stored, rule = fetch(role, models_dir or downloads_dir()), "download"
    if stored is not None:
        header = read_header(stored)
        check_role(header, role)
        return Found(stored, rule, header)
    searched = f" (not in {models_dir} either)" if models_dir else ""
    raise WeightsError(f"{role.name}: no file given{searched}; give {role.flag} FILE, from {role.source.page}")


def candidates_in(folder: Path, role: Role, unreadable: list[str]) -> list[Header]:
    """Every file in a models folder and below whose header says it can fill the role.

    Files that cannot be read add their message to `unreadable`. Raises WeightsError if there is no such folder.
    """
    if not folder.is_dir():
        raise WeightsError(
            f"{folder}: the models folder does not exist; make it, or correct --models-dir or {MODELS_DIR_VARIABLE}"
        )
    onnx_folders = {path.parent for path in folder.rglob("*.onnx")}
    files = [path for ending in (".safetensors", ".pt", ".pth", ".gguf") for path in folder.rglob(f"*{ending}")]
    candidates = []
    for path in sorted({*files, *onnx_folders}):
        try:
            header = read_header(path)
        except WeightsError as error:
            unreadable.append(str(error))
            continue
        with contextlib.suppress(WeightsError):
            check_role(header, role)
            candidates.append(header)
    return candidates


def _nested(path: Path) -> Path:
    """antelopev2.zip unpacks to antelopev2/antelopev2/*.onnx: descend into the one nested folder."""
    if path.is_dir() and not any(path.glob("*.onnx")):
        inner = sorted({file.parent for file in path.glob("*/*.onnx")})
        if len(inner) == 1:
            return inner[0]
        raise WeightsError(f"{path}: the folder holds no .onnx files; expected scrfd_10g_bnkps.onnx and glintr100.onnx")
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
    """Download a role's file: from the hub into the hub's cache, from a plain url into `folder`. Raises WeightsError."""
    source = role.source
    if source.url:
        target = folder / source.url.rsplit("/", 1)[-1]
        download(source.url, target, source.sha256)
        return target
    from huggingface_hub import hf_hub_download

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every retry; the error below says it once
    try:
        return _whole([Path(hf_hub_download(source.repo, file)) for file in source.files])
    except (OSError, ValueError) as error:  # huggingface_hub's own errors are OSErrors or ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(f"{role.name}: download from {source.page} failed ({reason}); give {role.flag} FILE") from None


def _whole(paths: list[Path]) -> Path:
    return paths[0] if len(paths) == 1 else paths[0].parent


def downloads_dir() -> Path:
    """Where files that are not on the Hugging Face hub are kept: beside the hub's own cache."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "pulid"


def is_offline() -> bool:
    """True if the user forbade network calls, with the Hugging Face libraries' own variable."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def download(url: str, target: Path, sha256: str = "") -> None:
    """Fetch `url` to `target` (beside, then renamed). Raises WeightsError if it fails or the SHA-256 is another."""
    import urllib.request
    from http.client import HTTPException

    digest = hashlib.sha256()

    def chunks(response) -> Iterator[bytes]:
        got, length = 0, response.headers.get("Content-Length")
        try:
            while chunk := response.read(1 << 20):
                digest.update(chunk)
                got += len(chunk)
                yield chunk
        except (OSError, HTTPException) as error:
            raise WeightsError(f"{url}: download broke off after {got} bytes ({error}); try again") from None
        if length and got != int(length):  # http.client ends such a read without a word
            raise WeightsError(f"{url}: download broke off after {got} of {length} bytes; try again")
        if sha256 and digest.hexdigest() != sha256:
            raise WeightsError(f"{url}: SHA-256 is {digest.hexdigest()}, expected {sha256}; try again later")

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=60) as response:
            write_atomically(target, chunks(response))
    except (OSError, HTTPException) as error:
        raise WeightsError(f"{url}: download failed ({error}); fetch it by hand into {target.parent}") from None
