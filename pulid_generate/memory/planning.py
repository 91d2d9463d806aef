"""TODO"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pulid_generate.memory.footprint import (
    Footprint,
)

if TYPE_CHECKING:
    from pulid_generate.memory.placement import Placement
from pulid_generate.memory.plan import CLIP, FLUX, Q4_BYTES, STAGES, T5, VAE, Plan, Work, gib
from pulid_generate.memory.stages import DEFAULT_TILE, ROLES, Case, fits, missing, plan_stages


def make_plan(files: Any, work: Work, placement: Placement, available: Mapping[str, int]) -> Plan:
    """files: flux, vae, clip_l, t5xxl and pulid (or None), each with a `header`, as ModelFiles.
    available: as placement.available_on.

    The plan's `problem` names the first stage that does not fit and the flags that, by the same
    arithmetic, would change that.
    """
    models = {name: Footprint.of(getattr(files, role).header, name) for name, role in ROLES.items()}
    pulid = Footprint.of(files.pulid.header, "PuLID") if files.pulid else None
    plan = plan_stages(Case(models, pulid, work, placement, available))
    return replace(plan, problem=_problem(Case(models, pulid, work, placement, available), plan))


def _problem(case: Case, plan: Plan) -> str:
    """One line about the first stage that does not fit: need, have, and what would help; "" if all
    fit.
    """
    for stage in plan.stages:
        for device, (need, have) in missing(case, stage).items():
            where = "main memory" if device == "cpu" else device
            helps = [
                name for name, change in _REMEDIES[stage.name] if _helps(case, stage.name, change)
            ]
            advice = f"it would fit with {' or '.join(helps)}" if helps else _NOTHING[stage.name]
            return f"{stage.name}: needs {gib(need)} of {where}, {gib(have)} can be used; {advice}"
    return ""


def _helps(case: Case, name: str, change: Callable[[Case], Case | None]) -> bool:
    changed = change(case)
    if changed is None:
        return False
    return all(fits(changed, stage) for stage in plan_stages(changed).stages if stage.name == name)


def _offloaded(module: str) -> Callable[[Case], Case | None]:
    def change(case: Case) -> Case | None:
        place = case.placement
        device = place.device if module == "diffusion" else place.text_device
        if device.type == "cpu" or module in place.offload:
            return None
        return replace(
            case, placement=replace(place, offload=place.offload | {module}, max_vram={})
        )

    return change


def _on_cpu(field: str) -> Callable[[Case], Case | None]:
    def change(case: Case) -> Case | None:
        device = getattr(case.placement, field)
        return (
            None
            if device.type == "cpu"
            else replace(case, placement=replace(case.placement, **{field: type(device)("cpu")}))
        )

    return change


def _unlimited(case: Case) -> Case | None:
    return (
        replace(case, placement=replace(case.placement, max_vram={}))
        if case.placement.max_vram
        else None
    )


def _packed(name: str, bytes_per_number: float) -> Callable[[Case], Case | None]:
    """The same model with matrices of about so many bytes per number."""

    def change(case: Case) -> Case | None:
        model = case.models[name]
        kind = "Q4_0" if bytes_per_number < 1 else "F8_E4M3"
        tensors = {
            tensor: (kind if len(shape) == 2 and tensor.endswith("weight") else type_, shape)
            for tensor, (type_, shape) in model.tensors.items()
        }
        smaller = Footprint(tensors)
        if smaller.bytes(None) >= model.bytes(None, case.work.dequantize):
            return None
        return replace(
            case, models={**case.models, name: smaller}, work=replace(case.work, dequantize=False)
        )

    return change


def _kept_packed(case: Case) -> Case | None:
    return (
        replace(case, work=replace(case.work, dequantize=False)) if case.work.dequantize else None
    )


def _tiled(case: Case) -> Case | None:
    return (
        replace(case, work=replace(case.work, tile=DEFAULT_TILE))
        if case.work.tile is None
        else None
    )


def _smaller(case: Case) -> Case | None:
    work = case.work
    return (
        replace(case, work=replace(work, width=work.width // 2, height=work.height // 2))
        if min(work.width, work.height) > 256
        else None
    )


_REMEDIES: dict[str, tuple[tuple[str, Callable[[Case], Case | None]], ...]] = {
    CLIP: (("--clip-on-cpu", _on_cpu("text_device")), ("a larger --max-vram", _unlimited)),
    T5: (
        ("--clip-on-cpu", _on_cpu("text_device")),
        ("--offload-to-cpu", _offloaded("te")),
        ("a larger --max-vram", _unlimited),
        ("--t5xxl with an fp8 file", _packed(T5, 1)),
        ("--t5xxl with a Q4 GGUF", _packed(T5, Q4_BYTES)),
    ),
    FLUX: (
        ("--offload-to-cpu", _offloaded("diffusion")),
        ("a larger --max-vram", _unlimited),
        ("no --dequantize", _kept_packed),
        ("--diffusion-model with a Q4 GGUF", _packed(FLUX, Q4_BYTES)),
        ("-W and -H of half the size", _smaller),
    ),
    VAE: (
        ("--vae-tiling", _tiled),
        ("--vae-on-cpu", _on_cpu("vae_device")),
        ("a larger --max-vram", _unlimited),
        ("-W and -H of half the size", _smaller),
    ),
}


_NOTHING = dict.fromkeys(STAGES, "no flag changes that; free memory, or take a machine with more")
