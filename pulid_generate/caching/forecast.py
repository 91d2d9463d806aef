"""A tensor that was computed at some steps, at the steps between: as it last was, or where its
derivatives lead.

Source: TaylorSeer (arXiv 2503.06923), as vipshop/cache-dit 1.5 computes it,
caching/cache_contexts/calibrators/taylorseer.py.
"""

from __future__ import annotations

import math

from torch import Tensor


class Forecast:
    """Y(s) = Y + Y' (s - s0) + Y'' (s - s0)^2 / 2 .., derivatives by differences over steps."""

    def __init__(self, order: int):
        """order: derivatives; 0 gives the last value."""
        self.order = order
        self._step = 0
        # Y, Y', .. at the last computed step, as many as are known
        self._terms: list[Tensor] = []

    def update(self, value: Tensor, step: int) -> None:
        """What was computed at a step, which is later than the last one."""
        terms = [value]
        for before in self._terms[: self.order]:
            terms.append((terms[-1] - before) / (step - self._step))
        self._terms, self._step = terms, step

    def at(self, step: int) -> Tensor:
        """What would be computed at a step."""
        elapsed = step - self._step
        value = self._terms[0]
        for order, term in enumerate(self._terms[1:], 1):
            value = value + term * (elapsed**order / math.factorial(order))
        return value
