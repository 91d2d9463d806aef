"""What to draw: one frozen object, checked once, that goes into the pipeline and into the picture's
metadata.

Knows nothing of files, models or devices, and imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args

from pulid_generate.errors import RequestError
from pulid_generate.files.layouts import T5_LONGEST, TOKEN_PIXELS
from pulid_generate.request.passes.detail import DetailSettings
from pulid_generate.request.passes.hires import HiresSettings
from pulid_generate.request.people.id_schedule import IdSchedule, only
from pulid_generate.request.prompts.prompt_weights import parse_weights
from pulid_generate.request.skip_guidance import SkipGuidance
from pulid_generate.request.step_cache import StepCache
from pulid_generate.request.tiling import Tiling
from pulid_generate.sampling.names import DEFAULT_SCHEDULE, Rng, check_method, check_schedule

NegativeId = Literal["uncond", "same", "none"]
MAX_SIDE = 8192
MAX_STEPS = MAX_BATCH = 10_000
# Of guidances and of the identity; beyond it lies only overflow
MAX_STRENGTH = 1000
MAX_SHIFT = 10
MAX_SEED = 2**63 - 1
# sd-cli's
DEFAULT_TILE_SIZE, DEFAULT_TILE_OVERLAP = "32x32", 0.5
NO_SKIP, ALWAYS = SkipGuidance(), IdSchedule()


@dataclass(frozen=True)
class GenerationRequest:
    """One picture (or `batch_count` of them, with seeds seed, seed + 1, ..). Raises RequestError
    when built from impossible values.
    """

    prompt: str
    # Of the negative branch of true CFG
    negative_prompt: str = ""
    # Read (word:1.3) as sd-cli does, and encode long prompts in pieces
    prompt_weights: bool = False
    # Pixels, multiples of 16
    width: int = 512
    height: int = 512
    # None takes the model's default: schnell 4, dev 20
    steps: int | None = None
    seed: int = 42
    batch_count: int = 1
    # Whose noise: PyTorch's on a CPU, or the generator of sd-cli and of CUDA
    rng: Rng = "cuda"
    # Of a distilled model
    guidance: float = 3.5
    # True CFG; 1 is off
    cfg_scale: float = 1.0
    cfg_start_step: int = 0
    skip_guidance: SkipGuidance = NO_SKIP
    # Which steps reuse what earlier ones computed; None computes all of them
    step_cache: StepCache | None = None
    # Strength of everybody's identity, and at which steps; subjects are made with both
    id_weight: float = 1.0
    id_schedule: IdSchedule = ALWAYS
    # Whose identity the negative branch of true CFG gets
    negative_id: NegativeId = "uncond"
    # Names of `sampling.names`
    sampling_method: str = "euler"
    # Noise that a method adds; None is the method's own
    eta: float | None = None
    # None is the method's own
    scheduler: str | None = None
    # As the scheduler has it, none, or a number mu
    flow_shift: Literal["auto", "none"] | float = "auto"
    # The whole schedule; ends in 0
    sigmas: tuple[float, ...] | None = None
    # T5 tokens of a prompt, padded
    t5_max_length: int = 256
    # How much of a picture to start from is redrawn; ignored without one
    strength: float = 0.75
    # Whether the autoencoder works in tiles
    vae_tiling: bool = False
    # Latent cells, "WxH", and the share of a tile that overlaps; ignored without vae_tiling
    vae_tile_size: str = DEFAULT_TILE_SIZE
    vae_tile_overlap: float = DEFAULT_TILE_OVERLAP
    # A second pass over the faces of the drawn picture; None for none
    detail: DetailSettings | None = None
    # A second, larger pass over the whole picture, before that; None for none
    hires: HiresSettings | None = None

    def __post_init__(self) -> None:
        _check_side("width", self.width)
        _check_side("height", self.height)
        _check_text(self.prompt)
        _check_text(self.negative_prompt)
        _between("steps", self.steps, 1, MAX_STEPS)
        check_batch_count(self.batch_count)
        check_method(self.sampling_method)
        if self.scheduler is not None:
            check_schedule(self.scheduler)
        _between("cfg-start-step", self.cfg_start_step, 0, MAX_STEPS)
        # the last picture has the last seed
        _between("seed", self.seed, 0, MAX_SEED - self.batch_count)
        _between("t5-max-length", self.t5_max_length, 1, T5_LONGEST)
        _check_strength("guidance", self.guidance)
        _check_strength("cfg-scale", self.cfg_scale)
        _check_strength("pulid-id-weight", self.id_weight)
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise RequestError(f"eta {self.eta}: expected 0 to 1")
        if not 0 <= self.strength <= 1:
            raise RequestError(
                f"strength {self.strength}: expected 0 (hardly anything is redrawn) to 1 "
                "(everything)"
            )
        if self.rng not in get_args(Rng):
            raise RequestError(f"rng {self.rng!r}: expected {' or '.join(get_args(Rng))}")
        if self.negative_id not in get_args(NegativeId):
            raise RequestError(
                f"negative-id {self.negative_id!r}: expected {', '.join(get_args(NegativeId))}"
            )
        if self.flow_shift not in ("auto", "none"):
            _check_flow_shift(self.flow_shift)
        if self.sigmas is not None:
            self._check_sigmas(self.sigmas)
        if self.hires is not None:
            self._check_hires(self.hires)
        if self.prompt_weights:
            parse_weights(self.prompt)
            parse_weights(self.negative_prompt)

    def _check_sigmas(self, sigmas: tuple[float, ...]) -> None:
        where = f"sigmas {','.join(f'{sigma:g}' for sigma in sigmas) or '(none)'}"
        in_range = all(math.isfinite(sigma) and 0 <= sigma <= 1 for sigma in sigmas)
        if len(sigmas) < 2 or not in_range or sigmas[-1] != 0:
            raise RequestError(
                f"{where}: expected numbers from 1 down to 0, the last one 0, "
                "such as 1.0,0.75,0.5,0.25,0"
            )
        if any(a <= b for a, b in pairwise(sigmas)):
            raise RequestError(f"{where}: each must be smaller than the one before")
        if self.steps is not None and self.steps != len(sigmas) - 1:
            raise RequestError(
                f"steps {self.steps}: {len(sigmas)} sigmas are {len(sigmas) - 1} steps; "
                "leave --steps out or make them agree"
            )
        if self.flow_shift != "auto" or self.scheduler is not None:
            name = "flow-shift" if self.flow_shift != "auto" else "scheduler"
            raise RequestError(
                f"{name}: has no effect on a schedule given with sigmas; leave one of them out"
            )

    def _check_hires(self, hires: HiresSettings) -> None:
        try:
            enlarged(self, hires.steps or self.steps)
        except RequestError as error:
            raise RequestError(f"hires: {error}") from None

    @property
    def final_size(self) -> tuple[int, int]:
        """(width, height) of the finished picture."""
        if self.hires is None:
            return self.width, self.height
        return self.hires.size_of(self.width, self.height)

    @property
    def schedule_name(self) -> str:
        """The scheduler that makes the times: the one asked for, or the method's own."""
        return check_schedule(self.scheduler or DEFAULT_SCHEDULE.get(self.sampling_method, "flux"))

    def check_steps(self, steps: int) -> None:
        """Raise RequestError for a part that, with so many steps, would silently do nothing, such
        as a late start step.
        """
        self.id_schedule.check(steps)
        self.skip_guidance.check(steps)
        if self.step_cache is not None:
            self.step_cache.check_steps(steps)
        if self.cfg_scale != 1 and self.cfg_start_step >= steps:
            raise RequestError(
                f"cfg-start-step {self.cfg_start_step}: {only(steps)}; "
                "cfg-scale would never be used"
            )

    def tiling(self) -> Tiling | None:
        """The tiles of the autoencoder that are asked for. Raises RequestError."""
        if not self.vae_tiling:
            return None
        return Tiling.parse(self.vae_tile_size, self.vae_tile_overlap)


def close_up(request: GenerationRequest, prompt: str, negative_prompt: str) -> GenerationRequest:
    """The request of one face of this one's pictures, as its detail pass has it: in the size of the
    pass, from a picture. The identity is there at every step, and so is true CFG: what they wait
    for, the picture as a whole, is there already.
    """
    detail = request.detail
    assert detail is not None
    width, height = detail.size_in(request.width, request.height)
    return replace(
        request,
        prompt=prompt,
        negative_prompt=negative_prompt,
        width=width,
        height=height,
        steps=detail.steps or request.steps,
        sigmas=None if detail.steps else request.sigmas,
        batch_count=1,
        cfg_scale=detail.cfg_scale if detail.cfg_scale >= 0 else request.cfg_scale,
        cfg_start_step=0,
        id_schedule=ALWAYS,
        sampling_method=detail.sample_method or request.sampling_method,
        scheduler=detail.scheduler or request.scheduler,
        strength=detail.denoising_strength,
        # what steps may be skipped was said of so many steps, and of the whole picture
        step_cache=None,
        detail=None,
        hires=None,
    )


def enlarged(request: GenerationRequest, steps: int | None) -> GenerationRequest:
    """The request of the second pass over this one's pictures: in its size, along as many steps,
    from a picture. Everything else is the first pass's. Raises RequestError.
    """
    hires = request.hires
    assert hires is not None
    width, height = request.final_size
    by_hand = hires.sigmas is not None
    return replace(
        request,
        width=width,
        height=height,
        steps=None if by_hand else steps,
        sigmas=hires.sigmas,
        scheduler=None if by_hand else request.scheduler,
        flow_shift="auto" if by_hand else request.flow_shift,
        strength=hires.denoising_strength,
        detail=None,
        hires=None,
    )


def check_batch_count(count: int) -> None:
    """Raises RequestError."""
    _between("batch-count", count, 1, MAX_BATCH)


def _between(name: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        raise RequestError(f"{name} {value}: expected {least} to {most}")


def _check_side(name: str, value: int) -> None:
    unit = TOKEN_PIXELS
    if unit <= value <= MAX_SIDE and value % unit == 0:
        return
    lower = min(max(value // unit, 1) * unit, MAX_SIDE)
    near = f"{lower} or {lower + unit}" if lower < value < MAX_SIDE else str(lower)
    raise RequestError(
        f"{name} {value}: expected a multiple of {unit} from {unit} to {MAX_SIDE}; try {near}"
    )


def _check_text(text: str) -> None:
    # how Python shows bytes that are not UTF-8
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        raise RequestError("prompt: is not valid UTF-8; set the terminal or the script to UTF-8")


def _check_strength(name: str, value: float) -> None:
    # NaN is refused as well
    if not abs(value) <= MAX_STRENGTH:
        raise RequestError(
            f"{name} {value}: expected a number from -{MAX_STRENGTH} to {MAX_STRENGTH}"
        )


def _check_flow_shift(mu: object) -> None:
    number = isinstance(mu, int | float) and math.isfinite(mu)
    if not number or abs(mu) > MAX_SHIFT:  # type: ignore[arg-type]
        raise RequestError(
            f"flow-shift {mu!r}: expected auto, none or a number mu from "
            f"-{MAX_SHIFT} to {MAX_SHIFT}"
        )
