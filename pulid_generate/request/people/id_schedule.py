"""How strong the identity is at each step: a window, a piecewise constant weight, and weights for
the two kinds of block.

Pure arithmetic on numbers. Knows nothing of models, files or tensors.

A moment is a step number (int, from 0) or a share of the steps (float from 0 to 1): "4" is step 4,
"0.2" of 20 steps is step 4 as well. A share stands for the first step k with k / steps >= share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from pulid_generate.errors import RequestError

Moment = int | float
# Beyond it lies only overflow
MAX_WEIGHT = 1000


@dataclass(frozen=True)
class IdSchedule:
    """When the identity is seen, and with which factors on its weight."""

    # First step that sees it
    start: Moment = 0
    # First step that no longer does; None for none
    end: Moment | None = None
    # (moment, factor) pairs, in order, the first at 0; each holds from its moment to the next one
    points: tuple[tuple[Moment, float], ...] = ((0, 1.0),)
    # Factors after Flux's double and single blocks
    double: float = 1.0
    single: float = 1.0

    def __post_init__(self) -> None:
        """Raises RequestError for what no number of steps could make right."""
        check_moment("id-start-step", self.start)
        if self.end is not None:
            check_moment("id-end-step", self.end)
        for name, factor in (("id-weight-double", self.double), ("id-weight-single", self.single)):
            check_weight(name, factor)
        where = f"id-weight-schedule {format_points(self.points)}"
        for moment, factor in self.points:
            check_moment(where, moment)
            check_weight(where, factor)
        if not self.points or self.points[0][0] != 0:
            raise RequestError(
                f"{where}: says nothing about the first steps; begin with step 0, such as 0:1"
            )

    def check(self, steps: int, where: str = "") -> None:
        """Raise RequestError if, with so many steps, a part would silently do nothing: a window
        without a step, a point never reached.

        where: whose schedule it is, for messages; "" for the flags' own.
        """
        start, end = self._window(steps)
        of = f"{where}: " if where else ""
        if start >= steps:
            raise RequestError(
                f"{of}id-start-step {self.start!r}: {only(steps)}; the identity would never be used"
            )
        if end > steps:
            raise RequestError(
                f"{of}id-end-step {self.end!r}: {only(steps)}; leave it out to use all of them"
            )
        if end <= start:
            raise RequestError(
                f"{of}id-start-step {self.start!r}, id-end-step {self.end!r}: no step of {steps} "
                "lies between them; the identity would never be used; the end is the first step "
                "without it"
            )
        reached = [step_of(moment, steps) for moment, _ in self.points]
        points = f"{of}id-weight-schedule {format_points(self.points)}"
        for (a, b), (earlier, later) in zip(pairwise(reached), pairwise(self.points), strict=True):
            if a >= b:
                raise RequestError(
                    f"{points}: {earlier[0]!r} is step {a} and {later[0]!r} is step {b} of "
                    f"{steps}; "
                    "each must come after the one before"
                )
        if reached[-1] >= steps:
            raise RequestError(
                f"{points}: {only(steps)}, from 0; {self.points[-1][0]!r} is never reached"
            )

    def active(self, step: int, steps: int) -> bool:
        """Whether step `step` (from 0) of `steps` sees the identity at all. Outside the window
        nothing is computed.
        """
        start, end = self._window(steps)
        return start <= step < end

    def _window(self, steps: int) -> tuple[int, int]:
        """First step that sees it, first step after that which does not."""
        end = steps if self.end is None else step_of(self.end, steps)
        return step_of(self.start, steps), end

    def weight_at(self, step: int, steps: int) -> tuple[float, float]:
        """Factors on the weight at step `step` (from 0) of `steps`, after double and after single
        blocks; 0 outside the window.
        """
        if not self.active(step, steps):
            return 0.0, 0.0
        factor = 1.0
        for moment, value in self.points:
            if step_of(moment, steps) <= step:
                factor = value
        return factor * self.double, factor * self.single


def step_of(moment: Moment, steps: int) -> int:
    """The step that a moment stands for: itself, or the first k with k / steps >= share."""
    # 0.1 * 30 is 3.0000000000000004 in binary
    return moment if isinstance(moment, int) else math.ceil(round(moment * steps, 9))


def only(steps: int) -> str:
    """For messages about a step that is not reached."""
    return "there is only 1 step" if steps == 1 else f"there are only {steps} steps"


def parse_moment(text: str, where: str) -> Moment:
    """ "4" -> 4, "0.2" -> 0.2. Raises RequestError, naming `where`, for anything else."""
    try:
        moment: Moment = int(text) if text.strip().isdecimal() else float(text)
    except ValueError:
        raise RequestError(
            f"{where} {text!r}: expected a step number such as 4, "
            "or a share of the steps such as 0.2"
        ) from None
    check_moment(where, moment)
    return moment


def check_moment(where: str, moment: Moment) -> None:
    """Raise RequestError unless `moment` is an int from 0 or a float from 0 to 1."""
    if not (moment >= 0 if isinstance(moment, int) else 0 <= moment <= 1):  # NaN fails both
        raise RequestError(
            f"{where} {moment!r}: expected a step number from 0, without a point, "
            "or a share of the steps from 0.0 to 1.0"
        )


def check_weight(where: str, weight: float) -> None:
    """Raise RequestError unless `weight` is a number of sensible size."""
    if not abs(weight) <= MAX_WEIGHT:  # also refuses NaN
        raise RequestError(
            f"{where}: {weight:g} is not a weight; "
            f"expected a number from -{MAX_WEIGHT} to {MAX_WEIGHT}"
        )


def parse_points(text: str) -> tuple[tuple[Moment, float], ...]:
    """ "0:0,4:1,0.8:0.6" -> ((0, 0.0), (4, 1.0), (0.8, 0.6)). Raises RequestError naming the part
    that cannot be read.
    """
    points = []
    for part in text.split(","):
        moment, factor = part.split(":") if part.count(":") == 1 else (part, "")
        where = f"id-weight-schedule {text}"
        try:
            weight = float(factor)
        except ValueError:
            raise RequestError(
                f"{where}: {part!r} is not STEP:WEIGHT; write it as 0:0,4:1,16:0.6"
            ) from None
        points.append((parse_moment(moment, f"{where}: step"), weight))
    return tuple(points)


def format_points(points: tuple[tuple[Moment, float], ...]) -> str:
    """The inverse of `parse_points`: shares keep a point, so that 1.0 does not become step 1."""
    return ",".join(f"{moment!r}:{factor:g}" for moment, factor in points) or "(none)"
