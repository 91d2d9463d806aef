"""What a sheet shows: pictures in cells, a heading over each column and before each row.

Knows no pixel and no page: `sheet_layout` measures a grid, `sheet_page` draws it. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np

# a file, read when its page is drawn, or uint8 RGB (H, W, 3)
PictureSource: TypeAlias = "str | Path | np.ndarray"


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """One picture of a cell."""

    # None for one that is missing
    picture: PictureSource | None
    # what stands under it, in lines
    caption: str = ""
    # why it is missing, shown in its place
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Heading:
    """What a column or a row is of."""

    text: str = ""
    # a portrait, above the text
    picture: PictureSource | None = None


@dataclass(frozen=True, eq=False)
class SheetGrid:
    """Everything that a sheet shows, whatever the size of its pages."""

    # cells[row][column]: thumbnails, shown beside and below each other
    cells: Sequence[Sequence[Sequence[Thumbnail]]]
    # one for each column, or none at all
    columns: Sequence[Heading] = ()
    # one for each row, or none at all
    rows: Sequence[Heading] = ()
    title: str = ""

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.cells}
        assert len(widths) == 1, "a grid is as wide in every row"
        assert not self.rows or len(self.rows) == len(self.cells)
        assert not self.columns or len(self.columns) in widths


def flow(thumbnails: Sequence[Thumbnail], title: str = "") -> SheetGrid:
    """Thumbnails in their order, about as many across as down, without headings."""
    return SheetGrid([[thumbnails]], title=title)
