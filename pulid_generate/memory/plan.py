"""The memory plan: what each stage of a generation needs where, against what is there, before anything loads.

It decides what the pipeline does on its own (16-bit weights on a CPU, tiles in the autoencoder, which blocks stay on a device) and refuses
what cannot fit, naming the flag that would make it fit. Pure numbers; imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pulid_generate.errors import PlacementError
from pulid_generate.memory.footprint import (
    CLIP_ACTIVATIONS,
    TOKEN_PIXELS,
    Footprint,
    choose_resident,
    decode_bytes,
    device_bytes,
    encode_bytes,
    flux_activations,
    folding_bytes,
    identity_bytes,
    t5_activations,
)

if TYPE_CHECKING:
    from pulid_generate.memory.placement import Placement

GIB = 2**30
CLIP, T5, FLUX, VAE = STAGES = ("CLIP-L", "T5", "Flux", "autoencoder")
MARGIN = 1.05  # what allocators waste
PROCESS = 400 * 2**20  # the libraries that are imported after the plan: 310 MB of resident memory measured, on a CPU
Q4_BYTES = 4.5 / 8  # per number of a Q4_0, Q4_K or IQ4_NL matrix


@dataclass(frozen=True)
class Work:
    """What decides the memory of a generation.

    width, height: pixels. t5_tokens: the longest prompt. id_tokens: tokens of every identity that is bound, the negative branch's too.
    tile: of --vae-tiling, columns and rows in latent cells, None without. init_image: whether a picture is encoded first. batch: pictures that
    go through Flux together. extra: bytes of LoRA matrices.
    """

    width: int
    height: int
    t5_tokens: int = 512
    id_tokens: tuple[int, ...] = ()
    tile: tuple[int, int] | None = None
    init_image: bool = False
    dequantize: bool = False
    batch: int = 1
    extra: int = 0

    @property
    def image_tokens(self) -> int:
        return (self.width // TOKEN_PIXELS) * (self.height // TOKEN_PIXELS)


@dataclass(frozen=True)
class Stage:
    """One stage. device: "cpu", "cuda:0", ..; weights and working: bytes there. waiting: bytes of main memory beside it.

    measures: what the plan chose so that it fits.
    """

    name: str
    device: str
    weights: int
    working: int
    waiting: int = 0
    measures: tuple[str, ...] = ()

    @property
    def needs(self) -> dict[str, int]:
        """Bytes by device."""
        here = int((self.weights + self.working) * MARGIN)
        return {"cpu": here + self.waiting} if self.device == "cpu" else {self.device: here, "cpu": self.waiting}


@dataclass(frozen=True)
class Plan:
    """available: bytes by device. narrow: stages that keep 16-bit weights. resident: numbers of Flux's and T5's blocks that stay on their
    device, where they stream. tile: the autoencoder's, in latent cells. problem: why it cannot fit, "" if it can."""

    stages: tuple[Stage, ...]
    available: Mapping[str, int]
    narrow: frozenset[str]
    resident: Mapping[str, frozenset[int]]
    tile: tuple[int, int] | None
    problem: str = ""

    @property
    def verdict(self) -> str:
        measures = [measure for stage in self.stages for measure in stage.measures]
        if self.problem:
            return "cannot fit"
        return "fits, with automatic measures" if measures else "fits"

    @property
    def peak(self) -> dict[str, int]:
        """The most that any stage needs, by device."""
        return {device: max(stage.needs.get(device, 0) for stage in self.stages) for device in self.available}

    def spare(self, name: str) -> int:
        """Bytes that a stage leaves free on its device: for widened weights that are worth keeping."""
        stage = next(stage for stage in self.stages if stage.name == name)
        return max(0, self.available[stage.device] - stage.needs[stage.device])

    def check(self) -> None:
        """Raise PlacementError if it cannot fit."""
        if self.problem:
            raise PlacementError(self.problem)

    def notes(self) -> list[str]:
        """What was chosen, a line each."""
        return [f"{stage.name}: {measure}" for stage in self.stages for measure in stage.measures]


def make_plan(files: Any, work: Work, placement: Placement, available: Mapping[str, int]) -> Plan:
    """files: flux, vae, clip_l, t5xxl and pulid (or None), each with a `header`, as ModelFiles. available: as placement.available_on.

    The plan's `problem` names the first stage that does not fit and the flags that, by the same arithmetic, would change that.
    """
    models = {name: Footprint.of(getattr(files, role).header, name) for name, role in _ROLES.items()}
    pulid = Footprint.of(files.pulid.header, "PuLID") if files.pulid else None
    plan = _plan(_Case(models, pulid, work, placement, available))
    return replace(plan, problem=_problem(_Case(models, pulid, work, placement, available), plan))


def as_dict(plan: Plan) -> dict[str, Any]:
    """For --json."""
    return {
        "verdict": plan.verdict,
        "problem": plan.problem,
        "stages": [
            {"name": stage.name, "device": stage.device, "needs": stage.needs, "measures": list(stage.measures)}
            for stage in plan.stages
        ],
        "peak": plan.peak,
        "available": dict(plan.available),
    }


def as_table(plan: Plan) -> str:
    """Lines for `doctor`: each stage, the peak, what is there, the verdict."""
    rows = [("stage", "on", "weights", "working", "main memory", "")]
    for stage in plan.stages:
        beside = _gib(stage.waiting) if stage.device != "cpu" else ""
        rows.append((stage.name, stage.device, _gib(stage.weights), _gib(stage.working), beside, "; ".join(stage.measures)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows]
    lines += [f"{device}: {_gib(need)} at most, {_gib(plan.available[device])} free" for device, need in plan.peak.items()]
    return "\n".join([*lines, f"{plan.verdict}{': ' if plan.problem else ''}{plan.problem}"])


# ------------------------------------------------------------------------------------------------------------------------ stages


@dataclass(frozen=True)
class _Case:
    """All that a plan is made of."""

    models: Mapping[str, Footprint]
    pulid: Footprint | None
    work: Work
    placement: Placement
    available: Mapping[str, int]


_ROLES = {CLIP: "clip_l", T5: "t5xxl", FLUX: "flux", VAE: "vae"}


def _plan(case: _Case) -> Plan:
    (t5, t5_resident), (flux, flux_resident), (vae, tile) = _t5(case), _flux(case), _vae(case)
    stages = (_clip(case), t5, flux, vae)
    narrow = frozenset(stage.name for stage in stages if any(measure.startswith("16-bit") for measure in stage.measures))
    resident = {name: chosen for name, chosen in ((T5, t5_resident), (FLUX, flux_resident)) if chosen is not None}
    return Plan(stages, case.available, narrow, resident, tile)


def _clip(case: _Case) -> Stage:
    device = case.placement.text_device
    weights = case.models[CLIP].bytes(_width(case, device))
    return Stage(CLIP, _name(device), weights, CLIP_ACTIVATIONS, _beside(0))


def _t5(case: _Case) -> tuple[Stage, frozenset[int] | None]:
    # T5 computes in bfloat16 where float16 is asked for: the same width
    device = case.placement.text_device
    return _model(case, T5, "te", device, t5_activations(case.models[T5], case.work.t5_tokens))


def _flux(case: _Case) -> tuple[Stage, frozenset[int] | None]:
    work, device = case.work, case.placement.device
    width = _width(case, device)
    tokens = work.batch * (work.image_tokens + work.t5_tokens)
    working = flux_activations(case.models[FLUX], tokens, width) + work.extra
    folding = 0
    if case.pulid and work.id_tokens:
        working += sum(identity_bytes(case.pulid, tokens, width) for tokens in work.id_tokens)
        folding = folding_bytes(case.pulid)
    return _model(case, FLUX, "diffusion", device, working, folding)


def _vae(case: _Case) -> tuple[Stage, tuple[int, int] | None]:
    work, device, vae = case.work, case.placement.vae_device, case.models[VAE]
    width = _width(case, device)

    def stage(tile: tuple[int, int] | None, *measures: str) -> Stage:
        working = decode_bytes(vae, work.width, work.height, width, tile)
        if work.init_image:
            working = max(working, encode_bytes(vae, work.width, work.height, width) if tile is None else 0)
        return Stage(VAE, _name(device), vae.bytes(width), working, _beside(0), measures)

    whole = stage(work.tile)
    if work.tile is not None or _fits(case, whole):
        return whole, work.tile
    tiled = stage(DEFAULT_TILE, f"decoded in tiles, the whole picture would take {_gib(whole.working)}")
    return (tiled, DEFAULT_TILE) if _fits(case, tiled) else (whole, None)


DEFAULT_TILE = (32, 32)  # sd-cli's --vae-tile-size


def _model(
    case: _Case, name: str, module: str, device: Any, working: int, folding: int = 0
) -> tuple[Stage, frozenset[int] | None]:
    """A transformer on its device: whole, in float32 or the file's 16 bits on a CPU, or streamed block by block."""
    model, dequantize = case.models[name], case.work.dequantize and name == FLUX  # T5 stays packed: it runs once a prompt
    width = _width(case, device)
    whole = model.bytes(width, dequantize)
    widened = model.largest * width if model.has_packed() and not dequantize else 0  # one matrix at a time
    stage = Stage(name, _name(device), whole, working + widened, _beside(folding))
    if not case.placement.streams(module):
        kept = model.bytes(None, dequantize)
        exact = not (dequantize and model.has_packed())  # 16 bits of a packed matrix, once widened, would be rounded
        if exact and device.type == "cpu" and width == 4 and kept < whole and not _fits(case, stage):
            measure = f"16-bit weights kept and widened layer by layer, float32 would take {_gib(whole)}"
            return replace(stage, weights=kept, working=working + model.largest * 4, measures=(measure,)), None
        return stage, None
    blocks = model.block_bytes(width, dequantize)
    rest = whole - sum(blocks) + stage.working
    budget = 0 if module in case.placement.offload and not case.placement.max_vram else _free(case, stage) - int(rest * MARGIN)
    chosen = choose_resident(blocks, int(budget / MARGIN))
    streamed = len(blocks) - len(chosen)
    here = device_bytes(blocks, chosen)
    # what waits: the streamed blocks, and pinned buffers as large as those on the device
    waiting = sum(blocks) + here - 2 * sum(blocks[index] for index in chosen)
    measures = (f"{streamed} of {len(blocks)} blocks stream from main memory",) if streamed else ()
    return replace(stage, weights=whole - sum(blocks) + here, waiting=stage.waiting + waiting, measures=measures), chosen


def _width(case: _Case, device: Any) -> int:
    """Bytes of a number in the arithmetic of a device."""
    return int(case.placement.dtype_on(device).itemsize)


def _beside(more: int) -> int:
    """Main memory that every stage takes."""
    return PROCESS + more


def _name(device: Any) -> str:
    return f"cuda:{device.index or 0}" if device.type == "cuda" else str(device.type)


def _free(case: _Case, stage: Stage) -> int:
    """What may be taken of the stage's device."""
    device = next(
        device
        for device in (case.placement.device, case.placement.text_device, case.placement.vae_device)
        if _name(device) == stage.device
    )
    return case.placement.usable(device, case.available[stage.device])


def _fits(case: _Case, stage: Stage) -> bool:
    return not _missing(case, stage)


def _missing(case: _Case, stage: Stage) -> dict[str, tuple[int, int]]:
    """Device -> (bytes needed, bytes that may be taken) where they are not enough."""
    have = {device: _free(case, stage) if device == stage.device else case.available[device] for device in stage.needs}
    return {device: (need, have[device]) for device, need in stage.needs.items() if need > have[device]}


# ---------------------------------------------------------------------------------------------------------------------- refusals


def _problem(case: _Case, plan: Plan) -> str:
    """One line about the first stage that does not fit: need, have, and what would help; "" if all fit."""
    for stage in plan.stages:
        for device, (need, have) in _missing(case, stage).items():
            where = "main memory" if device == "cpu" else device
            helps = [name for name, change in _REMEDIES[stage.name] if _helps(case, stage.name, change)]
            advice = f"it would fit with {' or '.join(helps)}" if helps else _NOTHING[stage.name]
            return f"{stage.name}: needs {_gib(need)} of {where}, {_gib(have)} can be used; {advice}"
    return ""


def _helps(case: _Case, name: str, change: Callable[[_Case], _Case | None]) -> bool:
    changed = change(case)
    if changed is None:
        return False
    return all(_fits(changed, stage) for stage in _plan(changed).stages if stage.name == name)


def _offloaded(module: str) -> Callable[[_Case], _Case | None]:
    def change(case: _Case) -> _Case | None:
        place = case.placement
        device = place.device if module == "diffusion" else place.text_device
        if device.type == "cpu" or module in place.offload:
            return None
        return replace(case, placement=replace(place, offload=place.offload | {module}, max_vram={}))

    return change


def _on_cpu(field: str) -> Callable[[_Case], _Case | None]:
    def change(case: _Case) -> _Case | None:
        device = getattr(case.placement, field)
        return None if device.type == "cpu" else replace(case, placement=replace(case.placement, **{field: type(device)("cpu")}))

    return change


def _unlimited(case: _Case) -> _Case | None:
    return replace(case, placement=replace(case.placement, max_vram={})) if case.placement.max_vram else None


def _packed(name: str, bytes_per_number: float) -> Callable[[_Case], _Case | None]:
    """The same model with matrices of about so many bytes per number."""

    def change(case: _Case) -> _Case | None:
        model = case.models[name]
        kind = "Q4_0" if bytes_per_number < 1 else "F8_E4M3"
        tensors = {
            tensor: (kind if len(shape) == 2 and tensor.endswith("weight") else type_, shape)
            for tensor, (type_, shape) in model.tensors.items()
        }
        smaller = Footprint(tensors)
        if smaller.bytes(None) >= model.bytes(None, case.work.dequantize):
            return None
        return replace(case, models={**case.models, name: smaller}, work=replace(case.work, dequantize=False))

    return change


def _kept_packed(case: _Case) -> _Case | None:
    return replace(case, work=replace(case.work, dequantize=False)) if case.work.dequantize else None


def _tiled(case: _Case) -> _Case | None:
    return replace(case, work=replace(case.work, tile=DEFAULT_TILE)) if case.work.tile is None else None


def _smaller(case: _Case) -> _Case | None:
    work = case.work
    return (
        replace(case, work=replace(work, width=work.width // 2, height=work.height // 2))
        if min(work.width, work.height) > 256
        else None
    )


_REMEDIES: dict[str, tuple[tuple[str, Callable[[_Case], _Case | None]], ...]] = {
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


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
