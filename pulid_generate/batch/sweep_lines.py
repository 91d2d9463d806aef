"""What `sweep` prints of each picture: a line of JSON that holds the swept values, or, for a person
at a terminal, a row of a table.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from pulid_extract.shared.cli import console
from pulid_generate.batch.lines import PictureResult, Result, ScoreResult, as_json
from pulid_generate.rows.axes import Axis

# what a picture is called in the last column where it is not kept
NOT_KEPT = "not kept"


class SweepLines:
    """Standard output of one sweep."""

    def __init__(self, axes: Sequence[Axis], *, kept: bool, as_json: bool):
        """kept: whether the pictures stay where they are written. as_json: lines of JSON at a
        terminal, too.
        """
        self.axes, self.kept = axes, kept
        self.is_table = not as_json and sys.stdout is not None and sys.stdout.isatty()
        self._head = self.is_table

    def write(self, result: Result) -> None:
        """One line. Raises OutputError, BrokenPipeError."""
        if isinstance(result, PictureResult | ScoreResult):
            result = replace(result, values=self.values_of(result.row))
            if not self.kept:
                result = replace(result, output=None)
        if not self.is_table:
            console.write_line(as_json(result))
            return
        if self._head:
            self._head = False
            console.write_line(
                self._row([axis.option for axis in self.axes], "seed", "", "picture")
            )
        console.write_line(self._table_row(result))

    def values_of(self, row: int) -> dict[str, str]:
        """Option -> value of a row, from 1; the first axis goes fastest."""
        values, place = {}, row - 1
        for axis in self.axes:
            place, index = divmod(place, len(axis.values))
            values[axis.option] = axis.values[index]
        return values

    def _table_row(self, result: Result) -> str:
        if not isinstance(result, PictureResult | ScoreResult):
            return f"sheet: {result.output}"
        what: str = "no face" if isinstance(result, ScoreResult) else result.status
        if isinstance(result, ScoreResult) and result.likeness is not None:
            what = f"likeness {result.likeness:.3f}"
        elif isinstance(result, PictureResult) and result.status == "done":
            what = f"{result.seconds:.1f} s"
        seed = "-" if result.seed is None else str(result.seed)
        place = result.error or result.output or NOT_KEPT
        return self._row(list((result.values or {}).values()), seed, what, place)

    def _row(self, values: Sequence[str], seed: str, what: str, place: str) -> str:
        cells = []
        for axis, value in zip(self.axes, values, strict=True):
            width = max(len(axis.option), *(len(one) for one in axis.values))
            cells.append(value.ljust(width))
        return "  ".join([*cells, seed.ljust(10), what.ljust(14), place]).rstrip()
