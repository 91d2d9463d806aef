"""The files of one extraction, found and recognised. Imports no torch, so that a cached result
needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from pulid_extract.files.kits import pull_command
from pulid_extract.files.roles import ROLES
from pulid_extract.shared.model_files import FoundFile, MissingFileError, all_missing, find


def needed_roles(
    detect: bool = True, aligner: str = "retinaface", parser: str = "bisenet"
) -> set[str]:
    """Names of the roles that an extraction with these options reads. detect: whether a face is to
    be found.
    """
    idle = {"retinaface": not detect or aligner != "retinaface", "bisenet": parser != "bisenet"}
    return {name for name in ROLES if not idle.get(name, False)}


def find_files(
    explicit: Mapping[str, str | Path | None],
    models_dir: str | Path | None,
    roles: Collection[str],
    log: Callable[[str], None] = lambda line: None,
    detail: Callable[[str], None] = lambda line: None,
) -> dict[str, FoundFile]:
    """The file of every named role, by the rules of `model_files.find`; says where each is
    (`detail`) and what is doubtful about it (`log`). explicit: role -> what a flag named.

    Raises WeightsError for a file that is missing or of the wrong kind.
    """
    files: dict[str, FoundFile] = {}
    missing: dict[str, MissingFileError] = {}
    for name, role in ROLES.items():
        if name not in roles:
            continue
        try:
            files[name] = find(role, explicit.get(name), models_dir)
        except MissingFileError as error:
            missing[name] = error
    if missing:
        command = pull_command(missing, models_dir)
        raise all_missing(list(missing.values()), command, models_dir)
    for name, file in files.items():
        detail(f"{ROLES[name].name}: {file.path} ({file.rule})")
        if file.warning:
            log(f"warning: {file.warning}")
    return files
