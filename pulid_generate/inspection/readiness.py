"""`pulid-generate doctor`: whether a generation with these flags would work here, and what to do if
not. Loads no model, makes no call.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from textwrap import indent

import typer

from pulid_extract.shared.cli import console
from pulid_extract.shared.embedding_file import read_embedding
from pulid_extract.shared.model_files import (
    Found,
    Role,
    check_role,
    fills,
    find,
    open_given,
    read_header,
)
from pulid_extract.shared.model_files.checkup import (
    FILES,
    Check,
    Looked,
    Status,
    as_text,
    libraries,
    look_for,
    machine,
    no_network,
    raise_missing,
    surroundings,
)
from pulid_generate.assembly.opening import find_files, placement_of
from pulid_generate.assembly.people import identity_files
from pulid_generate.assembly.requests import read_request
from pulid_generate.errors import PulidError
from pulid_generate.files.kits import KITS
from pulid_generate.files.model_set import ModelFiles
from pulid_generate.files.roles import ALL_IN_ONE, CLIP_L, FLUX, PULID, T5XXL, VAE
from pulid_generate.files.t5_vocabulary import T5_TOKENIZER
from pulid_generate.flags.commands import Flags
from pulid_generate.lora.choice import parse_lora_flag
from pulid_generate.memory.footprint import GIB
from pulid_generate.memory.plan import Plan, Work, as_dict, as_table
from pulid_generate.memory.planning import make_plan

# by flag
ROLES = {
    "diffusion_model": FLUX,
    "vae": VAE,
    "clip_l": CLIP_L,
    "t5xxl": T5XXL,
    "pulid_weights": PULID,
}
SMALLEST = "schnell-q4"
PLAN = "memory plan"  # the section
ID_TOKENS = 32  # of one portrait


def run(context: typer.Context, flags: Flags) -> None:
    """The command."""
    folder = Path(flags.models_dir).expanduser() if flags.models_dir else None
    looked = {name: _look(name, role, flags, folder) for name, role in ROLES.items()}
    absent = {name for name, role in looked.items() if role.absent}
    # a kit leaves alone what is there; without Flux the smallest one is the way to begin
    kit = (
        SMALLEST
        if "diffusion_model" in absent
        else "pulid"
        if absent == {"pulid_weights"}
        else "encoders"
    )
    fetch = f"pulid-generate pull {kit} --models-dir {folder or 'models'}"
    checks = [
        *libraries("generate"),
        *machine(flags.device),
        *(role.with_remedy(fetch) for role in looked.values()),
    ]
    plan = None
    if not any(check.stops for check in checks):
        found, files = _all_files(flags, folder)
        checks.append(found)
        if files is not None:
            verdict, plan = _memory(flags, files)
            checks.append(verdict)
    gated = sorted({item.source.repo for items in KITS.values() for item in items if item.gated})
    checks += surroundings(folder, gated)
    if flags.as_json:
        ready = not any(check.stops for check in checks)
        told = {
            "ready": ready,
            "checks": [check.as_dict() for check in checks],
            "plan": as_dict(plan) if plan else None,
        }
        console.write_line(json.dumps(told))
    else:
        table = f"\n{PLAN}, stage by stage\n{indent(as_table(plan), '  ')}" if plan else ""
        console.write_line(f"{as_text(checks)}{table}")
    raise_missing(checks)


def _look(name: str, role: Role, flags: Flags, folder: Path | None) -> Looked:
    """By the role's own flag, else in --model, else the models folder and the cache: as
    ModelFiles.find does for all of them.
    """
    given = getattr(flags, name)
    whole = flags.model if given is None and role is not PULID else None

    def search() -> Found:
        if whole is not None:
            found = open_given(ALL_IN_ONE, whole)
            if role is FLUX or fills(found.header, role):
                check_role(found.header, role)
                return replace(found, rule="all-in-one")
        return find(role, given, folder)

    return look_for(role, search, folder, given is not None)


def _all_files(flags: Flags, folder: Path | None) -> tuple[Check, ModelFiles | None]:
    """The files together, with T5's vocabulary: looked for last, since it may be in the T5 file or
    beside it.
    """
    try:
        with no_network():
            files = find_files(flags)
    except PulidError as error:
        remedy = (
            ""
            if flags.t5_tokenizer
            else f"run: pulid-generate pull encoders --models-dir {folder or 'models'}"
        )
        text = str(error).removeprefix(f"{T5_TOKENIZER.name}: ")
        return Check(FILES, T5_TOKENIZER.name, "missing" if remedy else "wrong", text, remedy), None
    return Check(FILES, T5_TOKENIZER.name, "ok", str(files.t5_tokenizer)), files


def _memory(flags: Flags, files: ModelFiles) -> tuple[Check, Plan | None]:
    """Whether it would fit, for the size and the placement that the flags ask for. Loads no
    model.
    """
    from pulid_generate.memory.devices import available_on
    from pulid_generate.request.tiling import Tiling

    try:
        request = read_request(flags)
        placement = placement_of(flags)
        tiling = (
            Tiling.parse(flags.vae_tile_size, flags.vae_tile_overlap) if flags.vae_tiling else None
        )
        work = Work(
            request.width,
            request.height,
            t5_tokens=request.t5_max_length,
            id_tokens=_id_tokens(flags),
            tile=(tiling.width, tiling.height) if tiling else None,
            init_image=flags.init_img is not None,
            dequantize=flags.dequantize,
            extra=int(flags.weight_cache * GIB) + _lora_bytes(flags, placement.dtype.itemsize),
        )
        devices = (placement.device, placement.text_device, placement.vae_device)
        plan = make_plan(files, work, placement, available_on(devices))
    except PulidError as error:
        return Check(PLAN, "flags", "wrong", str(error)), None
    status: Status = "wrong" if plan.problem else "note" if plan.notes() else "ok"
    size = f"{work.width}x{work.height}"
    return Check(
        PLAN, size, status, plan.verdict + (f": {plan.problem}" if plan.problem else "")
    ), plan


def _lora_bytes(flags: Flags, width: int) -> int:
    """Of the LoRAs named by flags, at so many bytes per number. Raises RequestError,
    WeightsError.
    """
    headers = [read_header(parse_lora_flag(text).path) for text in flags.lora or ()]
    return width * sum(
        math.prod(shape) for header in headers for _, shape in header.tensors.values()
    )


def _id_tokens(flags: Flags) -> tuple[int, ...]:
    """Tokens of everybody who is to be drawn; one person where nobody is named. With true CFG the
    negative branch has its own.
    """
    tokens = []
    for name in identity_files(flags):
        tokens.append(ID_TOKENS if name == "-" else len(read_embedding(name).tokens))
    branches = 2 if flags.cfg_scale != 1 else 1
    return tuple((tokens or [ID_TOKENS]) * branches)
