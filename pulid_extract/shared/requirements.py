"""What numbers must be, as people and CI write it: 'mean_likeness>=0.5,copy_paste<=0.2'. Knows no
number. Imports no torch.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from pulid_extract.shared.errors import UsageError

COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
CLAUSE = re.compile(r"\s*([a-z_0-9]+)\s*(>=|<=|>|<)\s*([^\s,]+)\s*")
EXAMPLE = "mean_likeness>=0.5,copy_paste<=0.2"


@dataclass(frozen=True)
class Clause:
    """One of them."""

    # of the number
    name: str
    # a key of COMPARE
    sign: str
    limit: float

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.limit:g}"

    def is_met(self, value: float | None) -> bool:
        """A number that is not there meets nothing."""
        return value is not None and COMPARE[self.sign](value, self.limit)


def parse_clauses(texts: Sequence[str], known: Collection[str]) -> list[Clause]:
    """Of --require. known: names of the numbers there are. Raises UsageError for what is none,
    naming these.
    """
    found = []
    for text in texts:
        for part in text.split(","):
            match = CLAUSE.fullmatch(part)
            if match is None:
                raise UsageError(f"--require {part.strip()!r}: expected such as {EXAMPLE}")
            name, sign, limit = match.groups()
            if name not in known:
                raise UsageError(f"--require {name}: expected one of {', '.join(known)}")
            try:
                value = float(limit)
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise UsageError(f"--require {part.strip()!r}: {limit} is not a number")
            found.append(Clause(name, sign, value))
    return found
