"""Whether an extraction would work here: libraries, devices, each model file and the rule that
finds it, disk and hub, and the command that fetches what is missing. Loads no model, makes no
network call.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pulid_extract.files.kits import KITS
from pulid_extract.files.roles import ROLES
from pulid_extract.shared.model_files import find
from pulid_extract.shared.model_files.checkup import (
    Check,
    RoleCheck,
    libraries,
    look_for,
    machine,
    surroundings,
)

# role -> the part that `pull` fetches it with, where that has another name
PARTS = {
    "retinaface": "facexlib",
    "bisenet": "facexlib",
    "eva_clip": "eva-clip",
    "pulid_weights": "pulid",
}


def check_readiness(
    explicit: Mapping[str, str | None], models_dir: Path | None, device: str
) -> list[Check]:
    """Everything that was looked at. explicit: role -> the file that a flag names. device: of
    --device.
    """
    roles: dict[str, RoleCheck] = {}
    for name, role in ROLES.items():
        given = explicit.get(name)
        search = partial(find, role, given, models_dir)
        roles[name] = look_for(role, search, models_dir, given is not None)
    fetch = _pull_command(roles, models_dir)
    checks = [*libraries("extract"), *machine(device)]
    checks += [role.with_remedy(fetch) for role in roles.values()]
    checks += surroundings(models_dir)
    return checks


def _pull_command(roles: Mapping[str, RoleCheck], models_dir: Path | None) -> str:
    """The command that fetches what is not there; without parts where all are missing."""
    parts = []
    for name, role in roles.items():
        part = PARTS.get(name, name)
        if role.absent and part not in parts:
            parts.append(part)
    if len(parts) == len(KITS):
        parts = []
    return " ".join(["pulid-extract pull", *parts, "--models-dir", str(models_dir or "models")])
