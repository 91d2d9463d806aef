"""What to draw: one frozen object, checked once, that goes into the pipeline and into the picture's metadata.

Knows nothing of files, models or devices.

The `parameters` text is AUTOMATIC1111's (stable-diffusion-webui modules/processing.py, create_infotext) and one JSON line after it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

from pulid_generate.errors import RequestError

Rng = Literal["cpu", "cuda"]
NegativeId = Literal["uncond", "same", "none"]
SIZE_UNIT = 16  # pixels per image token: the autoencoder's 8 times Flux's patches of 2
MAX_SIDE = 8192
MAX_STEPS = MAX_BATCH = 10_000
MAX_STRENGTH = 1000  # of guidances and of the identity; beyond it lies only overflow
MAX_SHIFT = 10
MAX_SEED = 2**63 - 1
T5_LONGEST = 512


@dataclass(frozen=True)
class GenerationRequest:
    """One picture (or `batch_count` of them, with seeds seed, seed + 1, ..). Raises RequestError when built from impossible values.

    width, height: pixels, multiples of 16. steps: None takes the model's default (schnell 4, dev 20).
    flow_shift: "auto" (BFL: shifted for dev, linear for schnell), "none", or mu. sigmas: the whole schedule, ends in 0.
    id_weight: strength of the identity, ignored without one. negative_id: what the negative branch of true CFG gets.
    """

    prompt: str
    negative_prompt: str = ""
    width: int = 512
    height: int = 512
    steps: int | None = None
    seed: int = 42
    batch_count: int = 1
    rng: Rng = "cuda"
    guidance: float = 3.5
    cfg_scale: float = 1.0
    cfg_start_step: int = 0
    id_weight: float = 1.0
    id_start_step: int = 0
    negative_id: NegativeId = "uncond"
    flow_shift: Literal["auto", "none"] | float = "auto"
    sigmas: tuple[float, ...] | None = None
    t5_max_length: int = 256
    vae_tiling: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            value = getattr(self, name)
            if value < SIZE_UNIT or value % SIZE_UNIT or value > MAX_SIDE:
                lower = min(max(value // SIZE_UNIT, 1) * SIZE_UNIT, MAX_SIDE)
                near = f"{lower} or {lower + SIZE_UNIT}" if lower < value < MAX_SIDE else str(lower)
                raise RequestError(
                    f"{name} {value}: expected a multiple of {SIZE_UNIT} from {SIZE_UNIT} to {MAX_SIDE}; try {near}"
                )
        for text in (self.prompt, self.negative_prompt):
            if any(0xD800 <= ord(character) < 0xE000 for character in text):  # how Python shows bytes that are not UTF-8
                raise RequestError("prompt: is not valid UTF-8; set the terminal or the script to UTF-8")
        _between("steps", self.steps, 1, MAX_STEPS)
        _between("batch-count", self.batch_count, 1, MAX_BATCH)
        _between("id-start-step", self.id_start_step, 0, MAX_STEPS)
        _between("cfg-start-step", self.cfg_start_step, 0, MAX_STEPS)
        if not 0 <= self.seed <= MAX_SEED - self.batch_count:
            raise RequestError(f"seed {self.seed}: expected 0 to {MAX_SEED - self.batch_count}")
        if not 1 <= self.t5_max_length <= T5_LONGEST:
            raise RequestError(f"t5-max-length {self.t5_max_length}: expected 1 to {T5_LONGEST}")
        for name in ("guidance", "cfg_scale", "id_weight"):
            if not abs(getattr(self, name)) <= MAX_STRENGTH:  # also refuses NaN
                flag = {"id_weight": "pulid-id-weight"}.get(name, name.replace("_", "-"))
                raise RequestError(f"{flag} {getattr(self, name)}: expected a number from -{MAX_STRENGTH} to {MAX_STRENGTH}")
        if self.rng not in get_args(Rng):
            raise RequestError(f"rng {self.rng!r}: expected {' or '.join(get_args(Rng))}")
        if self.negative_id not in get_args(NegativeId):
            raise RequestError(f"negative-id {self.negative_id!r}: expected {', '.join(get_args(NegativeId))}")
        if self.flow_shift not in ("auto", "none") and not (
            isinstance(self.flow_shift, int | float) and math.isfinite(self.flow_shift) and abs(self.flow_shift) <= MAX_SHIFT
        ):
            raise RequestError(
                f"flow-shift {self.flow_shift!r}: expected auto, none or a number mu from -{MAX_SHIFT} to {MAX_SHIFT}"
            )
        if self.sigmas is not None:
            self._check_sigmas()

    def _check_sigmas(self) -> None:
        sigmas = self.sigmas or ()
        if len(sigmas) < 2 or not all(math.isfinite(s) and 0 <= s <= 1 for s in sigmas) or sigmas[-1] != 0:
            raise RequestError(
                f"sigmas {_list(sigmas)}: expected numbers from 1 down to 0, the last one 0, such as 1.0,0.75,0.5,0.25,0"
            )
        if any(a <= b for a, b in pairwise(sigmas)):
            raise RequestError(f"sigmas {_list(sigmas)}: each must be smaller than the one before")
        if self.steps is not None and self.steps != len(sigmas) - 1:
            raise RequestError(
                f"steps {self.steps}: {len(sigmas)} sigmas are {len(sigmas) - 1} steps; leave --steps out or make them agree"
            )
        if self.flow_shift != "auto":
            raise RequestError("flow-shift: has no effect on a schedule given with sigmas; leave one of them out")

    def resolved(self, steps: int, sigmas: tuple[float, ...]) -> GenerationRequest:
        """The request with its schedule filled in. Raises RequestError if a start step lies beyond it, where it would silently do nothing."""
        if self.id_start_step >= steps:
            raise RequestError(
                f"id-start-step {self.id_start_step}: there are only {steps} steps; the identity would never be used"
            )
        if self.cfg_scale != 1 and self.cfg_start_step >= steps:
            raise RequestError(
                f"cfg-start-step {self.cfg_start_step}: there are only {steps} steps; cfg-scale would never be used"
            )
        return replace(self, steps=steps, sigmas=sigmas, flow_shift="auto")


def describe(
    request: GenerationRequest,
    *,
    t5_lengths: tuple[int, ...],
    seed: int,
    dev: bool,
    identity: str | None,
    models: dict[str, str],
    dtype: str,
    version: str,
) -> str:
    """The PNG's `parameters` text: what made this picture, effective inputs only.

    request: resolved. t5_lengths: tokens that T5 gave of the prompt, and of the negative prompt where there is one. identity: hash of the
    embedding, or None. What has no effect is left out, so weight 0 and no identity at all give the same text, and so do two guidances of a
    model that has no guidance input.
    """
    facts: dict[str, Any] = {
        "prompt": request.prompt,
        "width": request.width,
        "height": request.height,
        "steps": request.steps,
        "sigmas": [round(sigma, 6) for sigma in request.sigmas or ()],
        "seed": seed,
        "rng": request.rng,
        "t5_tokens": list(t5_lengths),
        "dtype": dtype,
        "models": models,
    }
    if dev:
        facts["guidance"] = request.guidance
    if request.cfg_scale != 1:
        facts |= {
            "negative_prompt": request.negative_prompt,
            "cfg_scale": request.cfg_scale,
            "cfg_start_step": request.cfg_start_step,
        }
    if request.vae_tiling:
        facts["vae_tiling"] = True
    if identity is not None and request.id_weight != 0:
        facts["identity"] = {"sha256": identity, "weight": request.id_weight, "start_step": request.id_start_step}
        if request.cfg_scale != 1:
            facts["identity"]["negative"] = request.negative_id

    lines = [request.prompt]
    if request.cfg_scale != 1:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    settings = {
        "Steps": request.steps,
        "Sampler": "Euler",
        "CFG scale": request.cfg_scale,
        "Distilled CFG Scale": request.guidance if dev else None,
        "Seed": seed,
        "RNG": request.rng,
        "Size": f"{request.width}x{request.height}",
        "Model": models.get("flux"),
        "PuLID": f"{facts['identity']['sha256'][:10]} weight {request.id_weight:g}" if "identity" in facts else None,
        "Version": f"pulid-generate {version}",
    }
    lines.append(", ".join(f"{name}: {value}" for name, value in settings.items() if value is not None))
    lines.append(json.dumps({"pulid_generate": version, **facts}, ensure_ascii=False, sort_keys=True))
    return "\n".join(lines)


def parse_description(text: str) -> dict[str, Any]:
    """The JSON line of a `parameters` text, as a dictionary. Raises RequestError if there is none."""
    try:
        facts = json.loads(text.rstrip("\n").rsplit("\n", 1)[-1])
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or "pulid_generate" not in facts:
        raise RequestError("this picture's metadata was not written by pulid-generate")
    return facts


def _between(name: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        raise RequestError(f"{name} {value}: expected {least} to {most}")


def _list(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{number:g}" for number in numbers) or "(none)"
