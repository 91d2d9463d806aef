"""`pulid-extract doctor`: whether an extraction would work here, and what to do if not. Loads no
model, makes no network call.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pulid_extract.files.kits import KITS
from pulid_extract.files.roles import ROLES
from pulid_extract.flags.groups import ModelFlags
from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.flags import takes_flags
from pulid_extract.shared.model_files import find
from pulid_extract.shared.model_files.checkup import (
    as_text,
    libraries,
    look_for,
    machine,
    raise_missing,
    surroundings,
)

PARTS = {
    "retinaface": "facexlib",
    "bisenet": "facexlib",
    "eva_clip": "eva-clip",
    "pulid_weights": "pulid",
}  # as `pull` calls them


@dataclass(frozen=True, kw_only=True)
class DoctorFlags(ModelFlags):
    """The flags that name files, as an extraction takes them."""

    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False


@takes_flags(DoctorFlags)
def doctor(context: typer.Context, flags: DoctorFlags) -> None:
    """Say whether an extraction would work here: libraries, devices, each model file and the rule
    that finds it, disk, hub.

    Exit code 0 if all is there, 1 if not; the report names the command that fetches what is
    missing. Takes the flags that name files.
    """
    folder = Path(flags.models_dir).expanduser() if flags.models_dir else None
    looked = {
        name: look_for(
            role,
            partial(find, role, getattr(flags, name), folder),
            folder,
            getattr(flags, name) is not None,
        )
        for name, role in ROLES.items()
    }
    absent = dict.fromkeys(PARTS.get(name, name) for name, role in looked.items() if role.absent)
    wanted = [] if len(absent) == len(KITS) else [*absent]
    fetch = " ".join(["pulid-extract pull", *wanted, "--models-dir", str(folder or "models")])
    checks = [
        *libraries("extract"),
        *machine(flags.device),
        *(role.with_remedy(fetch) for role in looked.values()),
    ]
    checks += surroundings(folder)
    ready = not any(check.stops for check in checks)
    report = (
        json.dumps({"ready": ready, "checks": [check.as_dict() for check in checks]})
        if flags.as_json
        else as_text(checks)
    )
    console.write_line(report)
    raise_missing(checks)
