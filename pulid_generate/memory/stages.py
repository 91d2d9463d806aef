"""TODO"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pulid_generate.memory.footprint import (
    CLIP_ACTIVATIONS,
    Footprint,
    decode_bytes,
    encode_bytes,
    flux_activations,
    folding_bytes,
    identity_bytes,
    t5_activations,
)
from pulid_generate.memory.residency import choose_resident, device_bytes

if TYPE_CHECKING:
    from pulid_generate.memory.placement import Placement
from pulid_generate.memory.plan import CLIP, FLUX, MARGIN, T5, VAE, Plan, Stage, Work, gib

# the libraries that are imported after the plan: 310 MB of resident memory measured, on a CPU
PROCESS = 400 * 2**20


@dataclass(frozen=True)
class Case:
    """All that a plan is made of."""

    models: Mapping[str, Footprint]
    pulid: Footprint | None
    work: Work
    placement: Placement
    available: Mapping[str, int]


ROLES = {CLIP: "clip_l", T5: "t5xxl", FLUX: "flux", VAE: "vae"}


def plan_stages(case: Case) -> Plan:
    (t5, t5_resident), (flux, flux_resident), (vae, tile) = (
        t5_stage(case),
        flux_stage(case),
        vae_stage(case),
    )
    stages = (clip_stage(case), t5, flux, vae)
    narrow = frozenset(
        stage.name
        for stage in stages
        if any(measure.startswith("16-bit") for measure in stage.measures)
    )
    resident = {
        name: chosen
        for name, chosen in ((T5, t5_resident), (FLUX, flux_resident))
        if chosen is not None
    }
    return Plan(stages, case.available, narrow, resident, tile)


def clip_stage(case: Case) -> Stage:
    device = case.placement.text_device
    weights = case.models[CLIP].bytes(_width(case, device))
    return Stage(CLIP, _name(device), weights, CLIP_ACTIVATIONS, _beside(0))


def t5_stage(case: Case) -> tuple[Stage, frozenset[int] | None]:
    # T5 computes in bfloat16 where float16 is asked for: the same width
    device = case.placement.text_device
    return _model(case, T5, "te", device, t5_activations(case.models[T5], case.work.t5_tokens))


def flux_stage(case: Case) -> tuple[Stage, frozenset[int] | None]:
    work, device = case.work, case.placement.device
    width = _width(case, device)
    tokens = work.batch * (work.image_tokens + work.t5_tokens)
    working = flux_activations(case.models[FLUX], tokens, width) + work.extra
    folding = 0
    if case.pulid and work.id_tokens:
        working += sum(identity_bytes(case.pulid, tokens, width) for tokens in work.id_tokens)
        folding = folding_bytes(case.pulid)
    return _model(case, FLUX, "diffusion", device, working, folding)


def vae_stage(case: Case) -> tuple[Stage, tuple[int, int] | None]:
    work, device, vae = case.work, case.placement.vae_device, case.models[VAE]
    width = _width(case, device)

    def stage(tile: tuple[int, int] | None, *measures: str) -> Stage:
        working = decode_bytes(vae, work.width, work.height, width, tile)
        if work.init_image:
            working = max(
                working, encode_bytes(vae, work.width, work.height, width) if tile is None else 0
            )
        return Stage(VAE, _name(device), vae.bytes(width), working, _beside(0), measures)

    whole = stage(work.tile)
    if work.tile is not None or fits(case, whole):
        return whole, work.tile
    tiled = stage(
        DEFAULT_TILE, f"decoded in tiles, the whole picture would take {gib(whole.working)}"
    )
    return (tiled, DEFAULT_TILE) if fits(case, tiled) else (whole, None)


DEFAULT_TILE = (32, 32)  # sd-cli's --vae-tile-size


def _model(
    case: Case, name: str, module: str, device: Any, working: int, folding: int = 0
) -> tuple[Stage, frozenset[int] | None]:
    """A transformer on its device: whole, in float32 or the file's 16 bits on a CPU, or streamed
    block by block.
    """
    # T5 stays packed: it runs once a prompt
    model, dequantize = case.models[name], case.work.dequantize and name == FLUX
    width = _width(case, device)
    whole = model.bytes(width, dequantize)
    # one matrix at a time
    widened = model.largest * width if model.has_packed() and not dequantize else 0
    stage = Stage(name, _name(device), whole, working + widened, _beside(folding))
    if not case.placement.streams(module):
        kept = model.bytes(None, dequantize)
        # 16 bits of a packed matrix, once widened, would be rounded
        exact = not (dequantize and model.has_packed())
        if exact and device.type == "cpu" and width == 4 and kept < whole and not fits(case, stage):
            measure = (
                f"16-bit weights kept and widened layer by layer, float32 would take {gib(whole)}"
            )
            return replace(
                stage, weights=kept, working=working + model.largest * 4, measures=(measure,)
            ), None
        return stage, None
    blocks = model.block_bytes(width, dequantize)
    rest = whole - sum(blocks) + stage.working
    budget = (
        0
        if module in case.placement.offload and not case.placement.max_vram
        else _free(case, stage) - int(rest * MARGIN)
    )
    chosen = choose_resident(blocks, int(budget / MARGIN))
    streamed = len(blocks) - len(chosen)
    here = device_bytes(blocks, chosen)
    # what waits: the streamed blocks, and pinned buffers as large as those on the device
    waiting = sum(blocks) + here - 2 * sum(blocks[index] for index in chosen)
    measures = (f"{streamed} of {len(blocks)} blocks stream from main memory",) if streamed else ()
    return replace(
        stage,
        weights=whole - sum(blocks) + here,
        waiting=stage.waiting + waiting,
        measures=measures,
    ), chosen


def _width(case: Case, device: Any) -> int:
    """Bytes of a number in the arithmetic of a device."""
    return int(case.placement.dtype_on(device).itemsize)


def _beside(more: int) -> int:
    """Main memory that every stage takes."""
    return PROCESS + more


def _name(device: Any) -> str:
    return f"cuda:{device.index or 0}" if device.type == "cuda" else str(device.type)


def _free(case: Case, stage: Stage) -> int:
    """What may be taken of the stage's device."""
    device = next(
        device
        for device in (case.placement.device, case.placement.text_device, case.placement.vae_device)
        if _name(device) == stage.device
    )
    return case.placement.usable(device, case.available[stage.device])


def fits(case: Case, stage: Stage) -> bool:
    return not missing(case, stage)


def missing(case: Case, stage: Stage) -> dict[str, tuple[int, int]]:
    """Device -> (bytes needed, bytes that may be taken) where they are not enough."""
    have = {
        device: _free(case, stage) if device == stage.device else case.available[device]
        for device in stage.needs
    }
    return {
        device: (need, have[device]) for device, need in stage.needs.items() if need > have[device]
    }
