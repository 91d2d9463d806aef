"""`pulid-generate doctor`: whether a generation with these flags would work here, and what to do if
not. Loads no model but one that enlarges, makes no call.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

import typer

from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.settings import used_settings
from pulid_extract.shared.embedding_file import read_embedding
from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.model_files import (
    FoundFile,
    Role,
    check_role,
    fills,
    find,
    open_given,
)
from pulid_extract.shared.model_files.checkup import (
    FILES,
    Check,
    CheckStatus,
    RoleCheck,
    as_text,
    libraries,
    look_for,
    machine,
    no_network,
    raise_missing,
    settings_checks,
    surroundings,
)
from pulid_generate.assembly.opening import find_files, placement_of
from pulid_generate.assembly.people import identity_files
from pulid_generate.assembly.requests import read_request
from pulid_generate.errors import PulidError
from pulid_generate.files.kits import ENCODERS_KIT, KITS, pull_command
from pulid_generate.files.layouts import TOKEN_PIXELS
from pulid_generate.files.model_set import ModelFiles, fit_to
from pulid_generate.files.roles import ALL_IN_ONE, CLIP_L, FLUX, PULID, T5XXL, VAE
from pulid_generate.files.t5_vocabulary import T5_TOKENIZER
from pulid_generate.flags.commands.tables import Flags
from pulid_generate.inspection.companions import (
    Companions,
    look_for_companions,
    look_for_tae,
)
from pulid_generate.memory.footprint import GIB, cacheable_bytes
from pulid_generate.memory.plan import Plan, Work, as_dict, as_table
from pulid_generate.memory.planning import make_plan

if TYPE_CHECKING:
    from pulid_generate.memory.placement import Placement

# field of Flags -> the role of the file that it names
ROLES = {
    "diffusion_model": FLUX,
    "vae": VAE,
    "clip_l": CLIP_L,
    "t5xxl": T5XXL,
    "pulid_weights": PULID,
}
# title of the section
PLAN = "memory plan"
# of one portrait
ID_TOKENS = 32


def run(context: typer.Context, flags: Flags) -> None:
    """The command: prints the report, as text or JSON. Raises PackageError if a run could not
    work.
    """
    folder = path_of(flags.models_dir) if flags.models_dir else None
    looked: dict[str, RoleCheck] = {}
    flux = None
    for name, role in ROLES.items():
        looked[name] = _look_for_role(name, role, flags, folder, flux)
        if role is FLUX:
            flux = looked[name].file
    tae = look_for_tae(flags)
    if tae is not None:
        # in the autoencoder's place, or beside it
        looked["tae" if flags.taesd_preview_only else "vae"] = tae
    absent = [ROLES[name] for name, role in looked.items() if role.absent]
    fetch = pull_command(absent, folder)
    checks = [*libraries("generate"), *machine(flags.device)]
    if not any(check.stops for check in checks):
        checks.append(_kernels(flags))
    checks += settings_checks(used_settings(context))
    checks += [role.with_remedy(fetch) for role in looked.values()]
    plan = None
    if not any(check.stops for check in checks):
        files_check, files = _all_files(flags, folder)
        checks.append(files_check)
        if files is not None:
            companions = look_for_companions(flags, files.flux, placement_of(flags))
            checks += companions.checks
            if not any(check.stops for check in companions.checks):
                plan_check, plan = _memory(flags, files, companions)
                checks.append(plan_check)
    gated = sorted({item.source.repo for items in KITS.values() for item in items if item.gated})
    checks += surroundings(folder, gated)
    if flags.as_json:
        report = {
            "ready": not any(check.stops for check in checks),
            "checks": [check.as_dict() for check in checks],
            "plan": as_dict(plan) if plan else None,
        }
        console.write_line(json.dumps(report))
    else:
        text = as_text(checks)
        if plan:
            text += f"\n{PLAN}, stage by stage\n{indent(as_table(plan), '  ')}"
        console.write_line(text)
    raise_missing(checks)


def _look_for_role(
    name: str, role: Role, flags: Flags, folder: Path | None, flux: FoundFile | None
) -> RoleCheck:
    """The check of one role: by its own flag, else in --model, else the models folder and the
    cache, as ModelFiles.find does for all of them. name: of the flag's field. flux: what was found
    for Flux, to which the others must fit.
    """
    given = getattr(flags, name)
    whole = flags.model if given is None and role is not PULID else None

    def search() -> FoundFile:
        if whole is not None:
            found = open_given(ALL_IN_ONE, whole)
            if role is FLUX or fills(found.header, role):
                check_role(found.header, role)
                return replace(found, rule="all-in-one")
        return find(role, given, folder, fit_to(flux, role))

    return look_for(role, search, folder, given is not None)


def _all_files(flags: Flags, folder: Path | None) -> tuple[Check, ModelFiles | None]:
    """The files together, with T5's vocabulary: looked for last, since it may be in the T5 file or
    next to it.
    """
    try:
        with no_network():
            files = find_files(flags)
    except PulidError as error:
        text = str(error).removeprefix(f"{T5_TOKENIZER.name}: ")
        if flags.t5_tokenizer:
            return Check(FILES, T5_TOKENIZER.name, "wrong", text), None
        remedy = f"run: pulid-generate pull {ENCODERS_KIT} --models-dir {folder or 'models'}"
        return Check(FILES, T5_TOKENIZER.name, "missing", text, remedy), None
    return Check(FILES, T5_TOKENIZER.name, "ok", str(files.t5_tokenizer)), files


def _kernels(flags: Flags) -> Check:
    """Which arithmetic runs, and whether by our kernels."""
    from pulid_generate.kernels.availability import available

    try:
        placement = placement_of(flags)
    except PulidError as error:
        return Check("machine", "arithmetic", "wrong", str(error))
    dtype = str(placement.dtype).removeprefix("torch.")
    reason = available(placement.device)
    by = "GPU kernels" if reason is None else f"torch's own operations: {reason}"
    return Check("machine", "arithmetic", "ok", f"{dtype} on {placement.device}, by {by}")


def _memory(flags: Flags, files: ModelFiles, companions: Companions) -> tuple[Check, Plan | None]:
    """Whether it would fit, for the size and the placement that the flags ask for. Loads no
    model.
    """
    from pulid_generate.memory.devices import available_on
    from pulid_generate.request.tiling import Tiling

    try:
        request = read_request(flags, flags.prompt or "", flags.width, flags.height)
        placement = placement_of(flags)
        tile = None
        if flags.vae_tiling:
            tiling = Tiling.parse(flags.vae_tile_size, flags.vae_tile_overlap)
            tile = (tiling.width, tiling.height)
        width = placement.dtype.itemsize
        # of the first pass, where there are two
        image_tokens = request.width * request.height // TOKEN_PIXELS**2
        is_recorded = placement.records(flags.cuda_graphs, image_tokens)
        columns, rows = request.final_size
        work = Work(
            columns,
            rows,
            t5_tokens=request.t5_max_length,
            id_tokens=_id_tokens(flags),
            tile=tile,
            init_image=flags.init_img is not None
            or bool(flags.ref_image or companions.controls)
            or (request.hires is not None and request.hires.in_pixels),
            dequantize=flags.dequantize,
            fp8=flags.compute == "fp8",
            recorded=image_tokens + request.t5_max_length if is_recorded else 0,
            extra=_cached_bytes(flags, files, placement)
            + companions.lora_numbers * width
            + companions.control_bytes(columns * rows // TOKEN_PIXELS**2, width),
        )
        available = companions.left_of(available_on(placement.devices))
        plan = make_plan(files, work, placement, available)
    except PulidError as error:
        return Check(PLAN, "flags", "wrong", str(error)), None
    size = f"{work.width}x{work.height}"
    if plan.problem:
        return Check(PLAN, size, "wrong", f"{plan.verdict}: {plan.problem}"), plan
    status: CheckStatus = "note" if plan.notes() else "ok"
    return Check(PLAN, size, status, plan.verdict), plan


def _cached_bytes(flags: Flags, files: ModelFiles, placement: Placement) -> int:
    """Of --weight-cache: as many as there are to be cached."""
    most = cacheable_bytes(
        files.flux.header, placement.device.type, placement.dtype.itemsize, flags.dequantize
    )
    return min(int(flags.weight_cache * GIB), most)


def _id_tokens(flags: Flags) -> tuple[int, ...]:
    """Tokens of everybody who is to be drawn; one person where nobody is named. With true CFG the
    negative branch has its own.
    """
    tokens = []
    for name in identity_files(flags):
        tokens.append(ID_TOKENS if name == "-" else len(read_embedding(name).tokens))
    branches = 2 if flags.cfg_scale != 1 else 1
    return tuple((tokens or [ID_TOKENS]) * branches)
