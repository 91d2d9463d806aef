"""`pulid-extract doctor`: whether an extraction would work here, and what to do if not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from pulid_extract.flags.doctor import DoctorFlags
from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.flags import takes_flags
from pulid_extract.shared.cli.settings import used_settings
from pulid_extract.shared.errors import InputError
from pulid_extract.shared.file_names import path_of

if TYPE_CHECKING:
    from pulid_extract.shared.model_files.checkup import Check


@takes_flags(DoctorFlags)
def doctor(context: typer.Context, flags: DoctorFlags) -> None:
    """Say whether an extraction would work here: libraries, devices, each model file and the rule
    that finds it, disk, hub.

    Exit code 0 if all is there, 1 if not; the report names the command that fetches what is
    missing. Takes the flags that name files, and those that make some of them needless.
    """
    from pulid_extract.files.model_set import needed_roles
    from pulid_extract.files.readiness import check_readiness
    from pulid_extract.files.roles import ROLES
    from pulid_extract.shared.model_files.checkup import as_text, raise_missing

    folder = path_of(flags.models_dir) if flags.models_dir else None
    explicit = {name: getattr(flags, name) for name in ROLES}
    needed = needed_roles(True, flags.aligner, flags.parser)
    settings = used_settings(context)
    more = _network_checks(flags.device, flags.fast)
    checks = check_readiness(explicit, folder, flags.device, needed, settings, more)
    report = as_text(checks)
    if flags.as_json:
        ready = not any(check.stops for check in checks)
        report = json.dumps({"ready": ready, "checks": [check.as_dict() for check in checks]})
    console.write_line(report)
    raise_missing(checks)


def _network_checks(device: str, fast: bool) -> list[Check]:
    """Where onnxruntime's networks would run, and what --fast would change; nothing where a library
    is missing, which the list of libraries says.
    """
    from pulid_extract.networks import onnx_runtime
    from pulid_extract.shared.model_files.checkup import Check

    try:
        from pulid_extract.networks.devices import choose_arithmetic, choose_device

        device = choose_device(device)
        checks = [Check("machine", "ONNX networks", "ok", onnx_runtime.describe(device))]
    except (ImportError, InputError):
        return []
    if fast:
        idle: list[str] = []
        choose_arithmetic(device, fast, idle.append)
        told = idle or ["EVA-CLIP and IDFormer compute in bfloat16"]
        checks.append(Check("machine", "--fast", "note" if idle else "ok", told[0]))
    return checks
