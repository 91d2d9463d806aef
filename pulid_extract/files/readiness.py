"""Whether an extraction would work here: libraries, devices, each model file and the rule that
finds it, disk and hub, and the command that fetches what is missing. Loads no model, makes no
network call.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from pulid_extract.files.kits import pull_command
from pulid_extract.files.roles import ROLES
from pulid_extract.shared.model_files import find
from pulid_extract.shared.model_files.checkup import (
    FILES,
    Check,
    RoleCheck,
    libraries,
    look_for,
    machine,
    settings_checks,
    surroundings,
)


def check_readiness(
    explicit: Mapping[str, str | None],
    models_dir: Path | None,
    device: str,
    needed: Collection[str] = tuple(ROLES),
    settings: Sequence[str] = (),
    more: Sequence[Check] = (),
) -> list[Check]:
    """Everything that was looked at. explicit: role -> the file that a flag names. device: of
    --device. needed: the roles that an extraction would read. settings: what came from pulid.toml.
    more: what else was looked at on this machine.
    """
    roles: dict[str, RoleCheck] = {}
    for name, role in ROLES.items():
        if name not in needed:
            unread = Check(FILES, role.name, "ok", "not read with these flags")
            roles[name] = RoleCheck(unread, None, False)
            continue
        given = explicit.get(name)
        search = partial(find, role, given, models_dir)
        roles[name] = look_for(role, search, models_dir, given is not None)
    fetch = pull_command([name for name, role in roles.items() if role.absent], models_dir)
    checks = [*libraries("extract"), *machine(device), *more, *settings_checks(settings)]
    checks += [role.with_remedy(fetch) for role in roles.values()]
    checks += surroundings(models_dir)
    return checks
