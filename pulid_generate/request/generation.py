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
from pulid_generate.request.id_schedule import IdSchedule
from pulid_generate.request.prompt import parse_weights
from pulid_generate.request.skip_guidance import SkipGuidance
from pulid_generate.sampling.names import DEFAULT_SCHEDULE, Rng, check_method, check_schedule

NegativeId = Literal["uncond", "same", "none"]
MAX_SIDE = 8192
MAX_STEPS = MAX_BATCH = 10_000
MAX_STRENGTH = 1000  # of guidances and of the identity; beyond it lies only overflow
MAX_SHIFT = 10
MAX_SEED = 2**63 - 1
DEFAULT_TILE_SIZE, DEFAULT_TILE_OVERLAP = "32x32", 0.5  # sd-cli's
NO_SKIP, ALWAYS = SkipGuidance(), IdSchedule()


@dataclass(frozen=True)
class GenerationRequest:
    """One picture (or `batch_count` of them, with seeds seed, seed + 1, ..). Raises RequestError
    when built from impossible values.

    width, height: pixels, multiples of 16. steps: None takes the model's default (schnell 4, dev
    20). prompt_weights: read (word:1.3) as sd-cli does, and encode long prompts in pieces; else the
    text is taken as it stands. id_weight: strength of everybody's identity, ignored without one;
    id_schedule: at which steps. negative_id: what the negative branch
        of true CFG gets.
    sampling_method, scheduler: names of `sampling_names`; scheduler None is the method's own. eta:
    None is the method's own. flow_shift: "auto" (as the scheduler has it), "none", or mu. sigmas:
    the whole schedule, ends in 0. strength: how much of a picture to start from is redrawn; ignored
    without one. vae_tile_size: latent cells, "WxH". vae_tile_overlap: share of a tile. Both ignored
    without vae_tiling.
    """

    prompt: str
    negative_prompt: str = ""
    prompt_weights: bool = False
    width: int = 512
    height: int = 512
    steps: int | None = None
    seed: int = 42
    batch_count: int = 1
    rng: Rng = "cuda"
    guidance: float = 3.5
    cfg_scale: float = 1.0
    cfg_start_step: int = 0
    skip_guidance: SkipGuidance = NO_SKIP
    id_weight: float = 1.0
    id_schedule: IdSchedule = ALWAYS
    negative_id: NegativeId = "uncond"
    sampling_method: str = "euler"
    eta: float | None = None
    scheduler: str | None = None
    flow_shift: Literal["auto", "none"] | float = "auto"
    sigmas: tuple[float, ...] | None = None
    t5_max_length: int = 256
    strength: float = 0.75
    vae_tiling: bool = False
    vae_tile_size: str = DEFAULT_TILE_SIZE
    vae_tile_overlap: float = DEFAULT_TILE_OVERLAP

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            value = getattr(self, name)
            if value < TOKEN_PIXELS or value % TOKEN_PIXELS or value > MAX_SIDE:
                lower = min(max(value // TOKEN_PIXELS, 1) * TOKEN_PIXELS, MAX_SIDE)
                near = (
                    f"{lower} or {lower + TOKEN_PIXELS}" if lower < value < MAX_SIDE else str(lower)
                )
                raise RequestError(
                    f"{name} {value}: expected a multiple of {TOKEN_PIXELS} from {TOKEN_PIXELS} to {MAX_SIDE}; try {near}"
                )
        for text in (self.prompt, self.negative_prompt):
            # how Python shows bytes that are not UTF-8
            if any(0xD800 <= ord(character) < 0xE000 for character in text):
                raise RequestError(
                    "prompt: is not valid UTF-8; set the terminal or the script to UTF-8"
                )
        _between("steps", self.steps, 1, MAX_STEPS)
        check_batch_count(self.batch_count)
        check_method(self.sampling_method)
        if self.scheduler is not None:
            check_schedule(self.scheduler)
        _between("cfg-start-step", self.cfg_start_step, 0, MAX_STEPS)
        if not 0 <= self.seed <= MAX_SEED - self.batch_count:
            raise RequestError(f"seed {self.seed}: expected 0 to {MAX_SEED - self.batch_count}")
        if not 1 <= self.t5_max_length <= T5_LONGEST:
            raise RequestError(f"t5-max-length {self.t5_max_length}: expected 1 to {T5_LONGEST}")
        for name in ("guidance", "cfg_scale", "id_weight"):
            if not abs(getattr(self, name)) <= MAX_STRENGTH:  # also refuses NaN
                flag = {"id_weight": "pulid-id-weight"}.get(name, name.replace("_", "-"))
                raise RequestError(
                    f"{flag} {getattr(self, name)}: expected a number from -{MAX_STRENGTH} to {MAX_STRENGTH}"
                )
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise RequestError(f"eta {self.eta}: expected 0 to 1")
        if not 0 <= self.strength <= 1:
            raise RequestError(
                f"strength {self.strength}: expected 0 (hardly anything is redrawn) to 1 (everything)"
            )
        if self.rng not in get_args(Rng):
            raise RequestError(f"rng {self.rng!r}: expected {' or '.join(get_args(Rng))}")
        if self.negative_id not in get_args(NegativeId):
            raise RequestError(
                f"negative-id {self.negative_id!r}: expected {', '.join(get_args(NegativeId))}"
            )
        if self.flow_shift not in ("auto", "none") and not (
            isinstance(self.flow_shift, int | float)
            and math.isfinite(self.flow_shift)
            and abs(self.flow_shift) <= MAX_SHIFT
        ):
            raise RequestError(
                f"flow-shift {self.flow_shift!r}: expected auto, none or a number mu from -{MAX_SHIFT} to {MAX_SHIFT}"
            )
        if self.sigmas is not None:
            self._check_sigmas()
        if self.prompt_weights:
            parse_weights(self.prompt)
            parse_weights(self.negative_prompt)

    def _check_sigmas(self) -> None:
        sigmas = self.sigmas or ()
        if (
            len(sigmas) < 2
            or not all(math.isfinite(s) and 0 <= s <= 1 for s in sigmas)
            or sigmas[-1] != 0
        ):
            raise RequestError(
                f"sigmas {_list(sigmas)}: expected numbers from 1 down to 0, the last one 0, such as 1.0,0.75,0.5,0.25,0"
            )
        if any(a <= b for a, b in pairwise(sigmas)):
            raise RequestError(f"sigmas {_list(sigmas)}: each must be smaller than the one before")
        if self.steps is not None and self.steps != len(sigmas) - 1:
            raise RequestError(
                f"steps {self.steps}: {len(sigmas)} sigmas are {len(sigmas) - 1} steps; leave --steps out or make them agree"
            )
        if self.flow_shift != "auto" or self.scheduler is not None:
            name = "flow-shift" if self.flow_shift != "auto" else "scheduler"
            raise RequestError(
                f"{name}: has no effect on a schedule given with sigmas; leave one of them out"
            )

    @property
    def schedule_name(self) -> str:
        """The scheduler that makes the times: the one asked for, or the method's own."""
        return check_schedule(self.scheduler or DEFAULT_SCHEDULE.get(self.sampling_method, "flux"))

    def resolved(self, steps: int, sigmas: tuple[float, ...]) -> GenerationRequest:
        """The request with its schedule filled in. Raises RequestError for a part that would
        silently do nothing, such as a late start step.
        """
        self.id_schedule.check(steps)
        self.skip_guidance.check(steps)
        if self.cfg_scale != 1 and self.cfg_start_step >= steps:
            raise RequestError(
                f"cfg-start-step {self.cfg_start_step}: there are only {steps} steps; cfg-scale would never be used"
            )
        return replace(self, steps=steps, sigmas=sigmas, flow_shift="auto", scheduler=None)


def check_batch_count(count: int) -> None:
    """Raises RequestError."""
    _between("batch-count", count, 1, MAX_BATCH)


def _between(name: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        raise RequestError(f"{name} {value}: expected {least} to {most}")


def _list(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{number:g}" for number in numbers) or "(none)"
