"""Which steps may reuse what an earlier one computed, and how: what --cache-mode and its companions
ask for. Knows no model; imports no torch.

Sources of names and defaults: leejet/stable-diffusion.cpp 97d29908 examples/common/common.cpp
(--cache-option) and src/stable-diffusion.cpp (sd_cache_params_init); what `max`, `continuous`,
`order` and `interval` limit: vipshop/cache-dit 1.5 caching/cache_contexts (max_cached_steps,
max_continuous_cached_steps, n_derivatives, skip_interval_steps).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pulid_generate.errors import CheckpointError, RequestError

CacheMode = Literal["easycache", "dbcache", "taylorseer", "cache-dit"]
MaskPolicy = Literal["dynamic", "static"]
# Other modes, sd-cli's among them -> why they are not here
REFUSED = {
    "ucache": "is for UNets, and Flux is a transformer; use easycache",
    "deepcache": "is for UNets, and Flux is a transformer; use easycache, or the block modes",
    "spectrum": "forecasts finished pictures by Chebyshev polynomials, which know nothing of when "
    "an identity comes or goes; use taylorseer or cache-dit",
}

# Options that are whole numbers; the others are floats
WHOLE = ("Fn", "Bn", "warmup", "max", "continuous", "order", "interval")
_LIMITS: dict[str, float | None] = {"Fn": 8, "Bn": 0, "warmup": 8, "max": -1, "continuous": -1}
# Mode -> its options with their defaults. Of taylorseer the schedule decides, not a threshold.
OPTIONS: dict[str, dict[str, float | None]] = {
    "easycache": {"threshold": 0.2, "start": 0.15, "end": 0.95},
    "dbcache": {**_LIMITS, "threshold": 0.08},
    "taylorseer": {**_LIMITS, "threshold": None, "order": 1, "interval": 3},
    "cache-dit": {**_LIMITS, "threshold": 0.08, "order": 1},
}
MAX_ORDER = 4


@dataclass(frozen=True)
class StepCache:
    """What is asked for. Raises RequestError for what no cache can do.

    Options that the mode does not have keep their defaults here and decide nothing.
    """

    mode: CacheMode
    # How much may change before a step is computed; None where a schedule alone decides
    threshold: float | None
    # Of easycache: the share of the way from noise to picture where reuse begins and ends
    start: float = 0.0
    end: float = 1.0
    # Blocks that run at every step, at the beginning and at the end
    first_blocks: int = 8
    last_blocks: int = 0
    # Steps at the beginning that are computed in any case
    warmup: int = 8
    # Steps that may be reused in all, and one after the other; -1 for any number
    most: int = -1
    most_in_a_row: int = -1
    # Derivatives of the forecast; 0 reuses the last residual as it is
    order: int = 0
    # Of taylorseer: every so many steps one is computed
    interval: int = 1
    # One number per step: 1 is computed, 0 may be reused; None leaves it to the others
    mask: tuple[int, ...] | None = None
    # Whether a step that the mask leaves open is decided by the threshold, or always reused
    policy: MaskPolicy = "dynamic"

    @classmethod
    def parse(
        cls, mode: str, option: str = "", mask: str = "", policy: str = "dynamic"
    ) -> StepCache:
        """From the texts of --cache-mode, --cache-option, --scm-mask and --scm-policy. Raises
        RequestError.
        """
        if mode in REFUSED:
            raise RequestError(f"cache-mode {mode}: {REFUSED[mode]}")
        if mode not in OPTIONS:
            raise RequestError(f"cache-mode {mode!r}: expected {', '.join(get_args(CacheMode))}")
        if policy not in get_args(MaskPolicy):
            raise RequestError(f"scm-policy {policy!r}: expected dynamic or static")
        numbers = _options(mode, option)
        cache = cls(
            mode=mode,  # type: ignore[arg-type]
            threshold=numbers["threshold"],
            start=numbers.get("start", 0.0),
            end=numbers.get("end", 1.0),
            first_blocks=numbers.get("Fn", 8),
            last_blocks=numbers.get("Bn", 0),
            warmup=numbers.get("warmup", 8),
            most=numbers.get("max", -1),
            most_in_a_row=numbers.get("continuous", -1),
            order=numbers.get("order", 0),
            interval=numbers.get("interval", 1),
            mask=_mask(mask),
            policy=policy,  # type: ignore[arg-type]
        )
        cache._check()
        return cache

    @property
    def of_blocks(self) -> bool:
        """Whether it reuses what blocks computed; else what the whole model did."""
        return self.mode != "easycache"

    def check_steps(self, steps: int) -> None:
        """Raise RequestError for a mask of another number of steps."""
        if self.mask is not None and len(self.mask) != steps:
            raise RequestError(
                f"scm-mask: has {len(self.mask)} numbers for {steps} steps; give one for each step"
            )

    def check_blocks(self, blocks: int, where: str) -> None:
        """Raise CheckpointError if nothing is left to reuse in a Flux of so many blocks. where:
        its file.
        """
        if self.of_blocks and self.first_blocks + self.last_blocks >= blocks:
            raise CheckpointError(
                f"cache-option Fn={self.first_blocks},Bn={self.last_blocks}: {where} has {blocks} "
                "blocks, so none would be left to reuse; give smaller numbers"
            )

    def idle(self) -> dict[str, str]:
        """Options that decide nothing beside the others -> why."""
        idle = {}
        if self.mask is not None:
            idle = dict.fromkeys(("warmup", "interval"), "--scm-mask says which steps are computed")
        if self.mask is not None and self.policy == "static":
            reason = "--scm-policy static reuses all that the mask leaves open"
            idle |= dict.fromkeys(("threshold", "max", "continuous"), reason)
        return idle

    def why_nothing(self, steps: int) -> str:
        """Why no step of so many was reused, and what to do."""
        if self.of_blocks and self.mask is None and self.warmup >= steps:
            return (
                f"all of {steps} steps are in its warm-up of {self.warmup}; give "
                "--cache-option warmup=N, or more steps"
            )
        return "every step differed too much from the one before; --cache-option says how much may"

    def facts(self) -> dict[str, Any]:
        """What decides the picture, for its metadata."""
        own = {
            "threshold": self.threshold,
            "start": self.start,
            "end": self.end,
            "Fn": self.first_blocks,
            "Bn": self.last_blocks,
            "warmup": self.warmup,
            "max": self.most,
            "continuous": self.most_in_a_row,
            "order": self.order,
            "interval": self.interval,
        }
        facts: dict[str, Any] = {"mode": self.mode}
        idle = self.idle()
        for name in OPTIONS[self.mode]:
            if own[name] is not None and name not in idle:
                facts[name] = own[name]
        if self.of_blocks and self.mask is not None:
            facts["mask"] = "".join(map(str, self.mask))
            facts["policy"] = self.policy
        return facts

    def _check(self) -> None:
        if self.threshold is not None and not 0 < self.threshold <= 1e6:
            raise RequestError(f"cache-option threshold={self.threshold:g}: expected more than 0")
        if not 0 <= self.start < self.end <= 1:
            raise RequestError(
                f"cache-option start={self.start:g},end={self.end:g}: expected shares of the way, "
                "0 <= start < end <= 1"
            )
        least = {
            "Fn": (self.first_blocks, 1),
            "Bn": (self.last_blocks, 0),
            "warmup": (self.warmup, 0),
            "max": (self.most, -1),
            "continuous": (self.most_in_a_row, -1),
            "interval": (self.interval, 1),
        }
        for name, (value, smallest) in least.items():
            if value < smallest:
                raise RequestError(f"cache-option {name}={value}: expected at least {smallest}")
        if not 0 <= self.order <= MAX_ORDER:
            raise RequestError(f"cache-option order={self.order}: expected 0 to {MAX_ORDER}")
        if self.mode == "taylorseer" and self.interval == 1 and self.mask is None:
            raise RequestError(
                "cache-option interval=1: every step would be computed; give 2 or more, or a mask"
            )


def idle_options(mode: str, option: str, mask: str, policy: str) -> list[str]:
    """A line for each option that was given and decides nothing. Raises RequestError."""
    idle = StepCache.parse(mode, option, mask, policy).idle()
    given = [part.partition("=")[0].strip() for part in option.split(",")]
    return [f"--cache-option {name} has no effect: {idle[name]}" for name in given if name in idle]


def _options(mode: str, text: str) -> dict[str, Any]:
    """The mode's options, those of the text over the defaults."""
    numbers: dict[str, Any] = dict(OPTIONS[mode])
    # sd-cli takes the two in small letters as well
    names = {"fn": "Fn", "bn": "Bn"} | {name: name for name in numbers}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (word.strip() for word in part.partition("="))
        name = names.get(key)
        if name not in numbers or not equals:
            raise RequestError(
                f"cache-option {part!r}: expected KEY=VALUE with {', '.join(numbers)} for {mode}"
            )
        try:
            number: float = int(value) if name in WHOLE else float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise RequestError(f"cache-option {part!r}: {value!r} is not a number")
        numbers[name] = number
    return numbers


def _mask(text: str) -> tuple[int, ...] | None:
    if not text.strip():
        return None
    parts = [part.strip() for part in text.split(",")]
    if any(part not in ("0", "1") for part in parts):
        raise RequestError(
            f"scm-mask {text[:40]!r}: expected 1 (compute) or 0 (may be reused) for each step, "
            "such as 1,1,1,0,1,0"
        )
    return tuple(int(part) for part in parts)
