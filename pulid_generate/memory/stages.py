"""What each stage of a generation needs, and what is chosen so that it fits: 16-bit weights on a
CPU, blocks that stream, tiles in the autoencoder.

Pure numbers; imports no torch. Knows no flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pulid_generate.files.model import Model
from pulid_generate.memory.footprint import (
    CLIP_ACTIVATIONS,
    Footprint,
    decode_bytes,
    encode_bytes,
    flux_activations,
    folding_bytes,
    gib,
    identity_bytes,
    t5_activations,
)
from pulid_generate.memory.plan import MARGIN, Measure, MeasureKind, Plan, Stage, Work
from pulid_generate.memory.residency import choose_resident, device_bytes
from pulid_generate.request.tiling import Tiling

if TYPE_CHECKING:
    from pulid_generate.memory.placement import Placement

# main memory of every stage, for the libraries that are imported after the plan: 310 MB of resident
# memory measured, on a CPU
PROCESS = 400 * 2**20
# columns and rows in latent cells: sd-cli's --vae-tile-size
DEFAULT_TILE = (Tiling.width, Tiling.height)


@dataclass(frozen=True)
class Case:
    """All that a plan is made of."""

    models: Mapping[Model, Footprint]
    pulid: Footprint | None
    work: Work
    placement: Placement
    # free bytes by device
    available: Mapping[str, int]

    def number_bytes(self, model: Model) -> int:
        """Bytes of a number in the arithmetic of a model."""
        return self.placement.dtype_of(model).itemsize

    def usable(self, stage: Stage) -> int:
        """Bytes that may be taken of the stage's device."""
        device = self.placement.device_of(stage.model)
        return self.placement.usable(device, self.available[stage.device])


def plan_stages(case: Case) -> Plan:
    """The stages with what was chosen so that they fit; whether they do is `missing`'s to say."""
    t5, t5_resident = _t5_stage(case)
    flux, flux_resident = _flux_stage(case)
    vae, tile = _vae_stage(case)
    resident = {}
    if t5_resident is not None:
        resident[Model.T5] = t5_resident
    if flux_resident is not None:
        resident[Model.FLUX] = flux_resident
    return Plan((_clip_stage(case), t5, flux, vae), case.available, resident, tile)


def missing(case: Case, stage: Stage) -> dict[str, tuple[int, int]]:
    """Device -> (bytes needed, bytes that may be taken) where they are not enough."""
    short = {}
    for device, need in stage.needs.items():
        have = case.usable(stage) if device == stage.device else case.available[device]
        if need > have:
            short[device] = (need, have)
    return short


def fits(case: Case, stage: Stage) -> bool:
    """Whether a stage has the memory that it needs."""
    return not missing(case, stage)


def _clip_stage(case: Case) -> Stage:
    weights = case.models[Model.CLIP].bytes(case.number_bytes(Model.CLIP))
    device = case.placement.name_of(Model.CLIP)
    return Stage(Model.CLIP, device, weights, CLIP_ACTIVATIONS, PROCESS)


def _t5_stage(case: Case) -> tuple[Stage, frozenset[int] | None]:
    working = t5_activations(case.models[Model.T5], case.work.t5_tokens)
    return _transformer_stage(case, Model.T5, working)


def _flux_stage(case: Case) -> tuple[Stage, frozenset[int] | None]:
    work = case.work
    width = case.number_bytes(Model.FLUX)
    working = flux_activations(case.models[Model.FLUX], work.forward_tokens, width) + work.extra
    # a recording keeps its memory beside that of other forwards
    working += flux_activations(case.models[Model.FLUX], work.recorded, width)
    folding = 0
    if case.pulid and work.id_tokens:
        folding = folding_bytes(case.pulid)
        if case.placement.device.type == "cuda":
            # there, and before the forward that it is for
            working, folding = max(working, folding), 0
        for id_tokens in work.id_tokens:
            working += identity_bytes(case.pulid, id_tokens, width)
    return _transformer_stage(case, Model.FLUX, working, folding)


def _transformer_stage(
    case: Case, model: Model, working: int, folding: int = 0
) -> tuple[Stage, frozenset[int] | None]:
    """A transformer on its device, and the blocks that stay there if it streams: whole, in float32
    or the file's 16 bits on a CPU, or streamed block by block.

    working: bytes of a forward. folding: bytes of main memory to prepare an identity.
    """
    footprint = case.models[model]
    # T5 stays packed: it runs once a prompt
    dequantize = case.work.dequantize and model is Model.FLUX
    width = case.number_bytes(model)
    # one matrix at a time
    widened = footprint.largest * width if footprint.has_packed() and not dequantize else 0
    whole = Stage(
        model,
        case.placement.name_of(model),
        footprint.bytes(width, dequantize),
        working + widened,
        PROCESS + folding,
    )
    if case.placement.streams(model):
        return _streamed(case, whole, footprint.block_bytes(width, dequantize))
    if fits(case, whole):
        return whole, None
    return _sixteen_bit(case, whole, working, dequantize) or whole, None


def _sixteen_bit(case: Case, whole: Stage, working: int, dequantize: bool) -> Stage | None:
    """The stage with the 16 bits of the file kept, None where that is not done or wins nothing."""
    footprint = case.models[whole.model]
    kept = footprint.bytes(None, dequantize)
    # 16 bits of a packed matrix, once widened, would be rounded
    exact = not (dequantize and footprint.has_packed())
    in_float32 = whole.device == "cpu" and case.number_bytes(whole.model) == 4
    if not exact or not in_float32 or kept >= whole.weights:
        return None
    measure = Measure(
        MeasureKind.SIXTEEN_BIT,
        f"16-bit weights kept and widened layer by layer, float32 would take {gib(whole.weights)}",
    )
    widened = footprint.largest * 4
    return replace(whole, weights=kept, working=working + widened, measures=(measure,))


def _streamed(case: Case, whole: Stage, blocks: list[int]) -> tuple[Stage, frozenset[int]]:
    """The stage with as many blocks on the device as fit, and their numbers.

    blocks: bytes of each.
    """
    other = whole.weights - sum(blocks)
    budget = 0
    # sent to main memory without a limit: nothing was said of how much may stay
    if whole.model not in case.placement.offload or case.placement.max_vram:
        budget = case.usable(whole) - int((other + whole.working) * MARGIN)
    resident = choose_resident(blocks, int(budget / MARGIN))
    on_device = device_bytes(blocks, resident)
    # what waits: the streamed blocks, and pinned buffers as large as those on the device
    waiting = sum(blocks) + on_device - 2 * sum(blocks[index] for index in resident)
    streamed = len(blocks) - len(resident)
    measures: tuple[Measure, ...] = ()
    if streamed:
        text = f"{streamed} of {len(blocks)} blocks stream from main memory"
        measures = (Measure(MeasureKind.STREAMED, text),)
    stage = replace(
        whole,
        weights=other + on_device,
        waiting=whole.waiting + waiting,
        measures=measures,
    )
    return stage, resident


def _vae_stage(case: Case) -> tuple[Stage, tuple[int, int] | None]:
    """The autoencoder, and its tile: as asked for, else tiles only if the whole does not fit."""
    whole = _vae_stage_in(case, case.work.tile)
    if case.work.tile is not None or fits(case, whole):
        return whole, case.work.tile
    text = f"decoded in tiles, the whole picture would take {gib(whole.working)}"
    tiled = replace(_vae_stage_in(case, DEFAULT_TILE), measures=(Measure(MeasureKind.TILED, text),))
    return (tiled, DEFAULT_TILE) if fits(case, tiled) else (whole, None)


def _vae_stage_in(case: Case, tile: tuple[int, int] | None) -> Stage:
    work, vae = case.work, case.models[Model.VAE]
    width = case.number_bytes(Model.VAE)
    working = decode_bytes(vae, work.width, work.height, width, tile)
    if work.init_image and tile is None:
        working = max(working, encode_bytes(vae, work.width, work.height, width))
    device = case.placement.name_of(Model.VAE)
    return Stage(Model.VAE, device, vae.bytes(width), working, PROCESS)
