"""The memory plan of one generation, made from headers before anything loads.

It refuses what cannot fit, in one line with the need, what there is, and the flags that by the same
arithmetic would make it fit. Pure numbers; imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pulid_generate.files.layouts import PULID_MARKER
from pulid_generate.files.model import Model
from pulid_generate.memory.footprint import Footprint, gib
from pulid_generate.memory.plan import Plan, Work
from pulid_generate.memory.stages import DEFAULT_TILE, Case, fits, missing, plan_stages

if TYPE_CHECKING:
    from pulid_generate.files.model_set import ModelFiles
    from pulid_generate.memory.placement import Placement

# bytes per number of a Q4_0, Q4_K or IQ4_NL matrix
Q4_BYTES = 4.5 / 8
# a picture whose shorter side is at most so many pixels is not advised to be smaller
SMALLEST_SIDE = 256

# What a case would be under another flag; None where the flag changes nothing.
Change = Callable[[Case], Case | None]


def make_plan(
    files: ModelFiles, work: Work, placement: Placement, available: Mapping[str, int]
) -> Plan:
    """The plan of `work` with these files. available: bytes by device, as devices.available_on.

    The plan's `problem` names the first stage that does not fit and the flags that, by the same
    arithmetic, would change that.
    """
    models = {}
    for model in Model:
        models[model] = Footprint.of(files.of(model).header, model.marker)
    if work.fp8:
        models[Model.FLUX] = models[Model.FLUX].in_fp8()
    pulid = Footprint.of(files.pulid.header, PULID_MARKER) if files.pulid else None
    case = Case(models, pulid, work, placement, available)
    plan = plan_stages(case)
    return replace(plan, problem=_problem(case, plan))


def _problem(case: Case, plan: Plan) -> str:
    """One line about the first stage that does not fit: need, have, and what would help; "" if all
    fit.
    """
    for stage in plan.stages:
        for device, (need, have) in missing(case, stage).items():
            where = "main memory" if device == "cpu" else device
            lack = f"{stage.model}: needs {gib(need)} of {where}, {gib(have)} can be used"
            return f"{lack}; {_advice(case, stage.model)}"
    return ""


def _advice(case: Case, model: Model) -> str:
    helps = []
    for flag, change in _REMEDIES[model]:
        changed = change(case)
        if changed is not None and fits(changed, plan_stages(changed).stage(model)):
            helps.append(flag)
    if helps:
        return f"it would fit with {' or '.join(helps)}"
    return "no flag changes that; free memory, or take a machine with more"


def _offloaded(model: Model) -> Change:
    def change(case: Case) -> Case | None:
        place = case.placement
        if place.name_of(model) == "cpu" or model in place.offload:
            return None
        offload = place.offload | {model}
        return replace(case, placement=replace(place, offload=offload, max_vram={}))

    return change


def _on_cpu(model: Model) -> Change:
    def change(case: Case) -> Case | None:
        if case.placement.name_of(model) == "cpu":
            return None
        return replace(case, placement=case.placement.with_on_cpu(model))

    return change


def _unlimited(case: Case) -> Case | None:
    if not case.placement.max_vram:
        return None
    return replace(case, placement=replace(case.placement, max_vram={}))


def _packed(model: Model, kind: str) -> Change:
    """The same model with matrices in a packed type."""

    def change(case: Case) -> Case | None:
        footprint = case.models[model]
        tensors = {}
        for name, (stored, shape) in footprint.tensors.items():
            is_matrix = len(shape) == 2 and name.endswith("weight")
            tensors[name] = (kind if is_matrix else stored, shape)
        smaller = Footprint(tensors)
        if smaller.bytes(None) >= footprint.bytes(None, case.work.dequantize):
            return None
        models = {**case.models, model: smaller}
        return replace(case, models=models, work=replace(case.work, dequantize=False))

    return change


def _kept_packed(case: Case) -> Case | None:
    if not case.work.dequantize:
        return None
    return replace(case, work=replace(case.work, dequantize=False))


def _tiled(case: Case) -> Case | None:
    if case.work.tile is not None:
        return None
    return replace(case, work=replace(case.work, tile=DEFAULT_TILE))


def _smaller(case: Case) -> Case | None:
    work = case.work
    if min(work.width, work.height) <= SMALLEST_SIDE:
        return None
    together = None
    if work.together is not None:
        together = work.together[0] // 2, work.together[1] // 2
    halved = replace(work, width=work.width // 2, height=work.height // 2, together=together)
    return replace(case, work=halved)


# per model, in the order they are named: what a message calls the remedy, and the change it makes
_REMEDIES: dict[Model, tuple[tuple[str, Change], ...]] = {
    Model.CLIP: (
        ("--clip-on-cpu", _on_cpu(Model.CLIP)),
        ("a larger --max-vram", _unlimited),
    ),
    Model.T5: (
        ("--clip-on-cpu", _on_cpu(Model.T5)),
        ("--offload-to-cpu", _offloaded(Model.T5)),
        ("a larger --max-vram", _unlimited),
        ("--t5xxl with an fp8 file", _packed(Model.T5, "F8_E4M3")),
        ("--t5xxl with a Q4 GGUF", _packed(Model.T5, "Q4_0")),
    ),
    Model.FLUX: (
        ("--offload-to-cpu", _offloaded(Model.FLUX)),
        ("a larger --max-vram", _unlimited),
        ("no --dequantize", _kept_packed),
        ("--diffusion-model with a Q4 GGUF", _packed(Model.FLUX, "Q4_0")),
        ("-W and -H of half the size", _smaller),
    ),
    Model.VAE: (
        ("--vae-tiling", _tiled),
        ("--vae-on-cpu", _on_cpu(Model.VAE)),
        ("a larger --max-vram", _unlimited),
        ("-W and -H of half the size", _smaller),
    ),
}
