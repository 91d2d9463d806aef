"""Skip-layer guidance as numbers: which layers are left out, how far to steer away from that, and
at which steps.

    v = v + scale * (v_positive - v_skipped)        v: after true CFG

Knows nothing of models or tensors; `injection.layer_skip` leaves the layers out.

Source: leejet/stable-diffusion.cpp, guidance.cpp (SkipLayerGuidance) and denoiser.hpp (its samplers
count steps from 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pulid_generate.errors import RequestError

# Beyond it lies only overflow
MAX_SCALE = 1000

# digits of a block's number, and more
LONGEST_NUMBER = 6


@dataclass(frozen=True)
class SkipGuidance:
    """Which layers are left out, how strongly, when. The defaults are sd-cli's."""

    # Block numbers, double blocks first
    layers: tuple[int, ...] = (7, 8, 9)
    # 0 is off
    scale: float = 0.0
    # Shares of the schedule
    start: float = 0.01
    end: float = 0.2

    def __post_init__(self) -> None:
        """Raises RequestError."""
        if not abs(self.scale) <= MAX_SCALE:  # also refuses NaN
            raise RequestError(
                f"slg-scale {self.scale}: expected a number from -{MAX_SCALE} to {MAX_SCALE}"
            )
        for name, share in (("skip-layer-start", self.start), ("skip-layer-end", self.end)):
            if not (math.isfinite(share) and 0 <= share <= 1):
                raise RequestError(f"{name} {share}: expected a share of the steps from 0 to 1")

    def active(self, step: int, steps: int) -> bool:
        """Whether step `step` (from 0) of `steps` is guided.

        sd-cli counts steps from 1, takes the shares of steps + 1 sigmas in single precision, cuts
        them to whole numbers, and leaves out both ends: with 20 steps its 0.01 and 0.2 are the
        steps 0, 1 and 2 of ours.
        """
        if not self.scale or not self.layers:
            return False
        start, end = (
            int(np.float32(share) * np.float32(steps + 1)) for share in (self.start, self.end)
        )
        return start < step + 1 < end

    def check(self, steps: int) -> None:
        """Raise RequestError if guidance was asked for and no step would have it."""
        asked_for = self.scale and self.layers
        if asked_for and not any(self.active(step, steps) for step in range(steps)):
            raise RequestError(
                f"skip-layer-start {self.start:g}, skip-layer-end {self.end:g}: no step of {steps} "
                "lies between them, so slg-scale would do nothing; give a later end"
            )


def parse_layers(text: str) -> tuple[int, ...]:
    """ "[7,8,9]" or "7,8,9" -> (7, 8, 9); "[]" -> (). Raises RequestError."""
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1]
    parts = [part.strip() for part in inner.split(",")] if inner.strip() else []
    if not all(part.isdecimal() and len(part) <= LONGEST_NUMBER for part in parts):
        raise RequestError(f"skip-layers {text[:80]!r}: expected block numbers such as [7,8,9]")
    return tuple(int(part) for part in parts)
