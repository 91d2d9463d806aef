"""TODO"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from pulid_extract.shared.captions import SIZE, font_of, line_height, wrap

Picture: TypeAlias = "str | Path | np.ndarray"


# longer side of a tile, in pixels: the first with which all fits on one page
SIDES = (384, 256, 160)


PAGED_SIDE = 256  # where nothing does


SMALL_TWICE = 192  # side of a tile to which small pictures are scaled up at least


PAGE = 4096  # width and height of a page, at most; viewers give up on larger ones


MARGIN, GAP, APART = 16, 8, 24  # around a page; between the tiles of a cell; between cells


FOOT = 32  # for the number of a page


IN_A_LINE = 3  # tiles of a cell; more stand in a square


MOST_LINES = 8  # of a caption or a head


HEAD_SIZE, TITLE_SIZE = 17, 20


PORTRAIT = 160  # longer side of a picture in a head


NARROWEST_HEAD = 60


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture, and what is said under it, in lines. picture: None for one that is missing;
    reason: why, told in its place.
    """

    picture: Picture | None
    caption: str = ""
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Head:
    """What a column or a row is of."""

    text: str = ""
    picture: Picture | None = None


@dataclass(frozen=True, eq=False)
class Grid:
    """cells[row][column]: tiles, shown beside and below each other. columns, rows: a head for each,
    or none at all.
    """

    cells: Sequence[Sequence[Sequence[Tile]]]
    columns: Sequence[Head] = ()
    rows: Sequence[Head] = ()
    title: str = ""

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.cells}
        assert len(widths) == 1, "a grid is as wide in every row"
        assert not self.rows or len(self.rows) == len(self.cells)
        assert not self.columns or len(self.columns) in widths


def flow(tiles: Sequence[Tile], title: str = "") -> Grid:
    """Tiles in their order, about as many across as down."""
    return Grid([[tiles]], title=title)


def size(picture: Picture | None) -> tuple[int, int] | None:
    """(width, height), from a file's header."""
    if isinstance(picture, np.ndarray):
        return picture.shape[1], picture.shape[0]
    try:
        return None if picture is None else Image.open(picture).size
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def sides(shapes: Collection[tuple[int, int]]) -> list[int]:
    """Sides worth trying: pictures are not blown up beyond what is good to look at."""
    longest = max(map(max, shapes))
    most = longest * max(1, -(-SMALL_TWICE // longest))
    return list(dict.fromkeys(min(side, most) for side in SIDES))


@dataclass(frozen=True)
class Line:
    """A line of tiles: those of `row` from `start` on, in each cell."""

    row: int
    start: int
    height: int


class Layout:
    """Where things go if a tile's longer side is `side`. box: (width, height) of every tile's
    picture.
    """

    def __init__(self, grid: Grid, shapes: Collection[tuple[int, int]], side: int):
        self.grid, self.side = grid, side
        self.caption_font, self.head_font, self.title_font = (
            font_of(SIZE),
            font_of(HEAD_SIZE),
            font_of(TITLE_SIZE),
        )
        fitted = [fit(shape, (side, side)) for shape in shapes]
        self.box = max(width for width, _ in fitted), max(height for _, height in fitted)
        self.head_width = self._head_width()
        left = self.head_width + APART if grid.rows else 0
        self.body = MARGIN + left, PAGE - MARGIN  # from, to
        most = max((len(cell) for row in grid.cells for cell in row), default=1)
        fitting = (self.body[1] - self.body[0] + GAP) // (self.box[0] + GAP)
        self.across = max(
            1, min(most if most <= IN_A_LINE else math.ceil(math.sqrt(most)), fitting)
        )  # tiles of a cell beside each other
        self.column_width = self.across * (self.box[0] + GAP) - GAP
        self.apart = APART if self.across > 1 else 2 * GAP

    def _head_width(self) -> int:
        """As wide as the texts need, and no wider than a tile."""
        texts = [line for head in self.grid.rows for line in head.text.splitlines()]
        wanted = max((math.ceil(self.head_font.getlength(text)) for text in texts), default=0)
        if any(head.picture is not None for head in self.grid.rows):
            wanted = max(wanted, PORTRAIT)
        return min(max(wanted, NARROWEST_HEAD), max(self.box[0], PORTRAIT))

    @cached_property
    def columns(self) -> list[range]:
        """The columns of each page across."""
        fitting = max(
            1, (self.body[1] - self.body[0] + self.apart) // (self.column_width + self.apart)
        )
        every = len(self.grid.cells[0])
        return [range(start, min(start + fitting, every)) for start in range(0, every, fitting)]

    @cached_property
    def width(self) -> int:
        """Of every page, so that they can be laid side by side."""
        most = max(len(columns) for columns in self.columns)
        tiles = self.body[0] + most * (self.column_width + self.apart) - self.apart + MARGIN
        title = math.ceil(
            max(
                (self.title_font.getlength(line) for line in self.grid.title.splitlines()),
                default=0,
            )
        )
        return min(PAGE, max(tiles, min(title + 2 * MARGIN, 2 * self.side + 2 * MARGIN)))

    @cached_property
    def title(self) -> list[str]:
        return (
            wrap(self.grid.title, self.width - 2 * MARGIN, self.title_font, MOST_LINES)
            if self.grid.title
            else []
        )

    @cached_property
    def top(self) -> int:
        """Where the tiles begin: under the title and the columns' heads."""
        title = len(self.title) * line_height(self.title_font) + GAP if self.title else 0
        return MARGIN + title + self.heads_height

    @cached_property
    def heads_height(self) -> int:
        highest = max(
            (self.head_height(head, self.column_width) for head in self.grid.columns), default=0
        )
        return highest + GAP if highest else 0

    def head_lines(self, head: Head, width: int) -> list[str]:
        return wrap(head.text, width, self.head_font, MOST_LINES) if head.text else []

    def head_height(self, head: Head, width: int) -> int:
        picture = min(PORTRAIT, width) + GAP if head.picture is not None else 0
        return picture + len(self.head_lines(head, width)) * line_height(self.head_font)

    def caption_lines(self, tile: Tile) -> list[str]:
        return (
            wrap(tile.caption, self.box[0], self.caption_font, MOST_LINES) if tile.caption else []
        )

    def _line_heights(self, row: int) -> list[int]:
        cells = self.grid.cells[row]
        heights = []
        for start in range(0, max([1, *map(len, cells)]), self.across):
            tiles = [tile for cell in cells for tile in cell[start : start + self.across]]
            captions = max((len(self.caption_lines(tile)) for tile in tiles), default=0)
            heights.append(self.box[1] + captions * line_height(self.caption_font) + 2 * GAP)
        return heights

    @cached_property
    def down(self) -> list[list[Line]]:
        """The lines of each page down. A row stays together if a page can hold it."""
        room = PAGE - MARGIN - FOOT - self.top
        found: list[list[Line]] = [[]]
        used = 0
        for row in range(len(self.grid.cells)):
            heights = self._line_heights(row)
            if self.grid.rows:  # the last line makes room for a head that is higher
                heights[-1] += max(
                    0, self.head_height(self.grid.rows[row], self.head_width) + GAP - sum(heights)
                )
            if found[-1] and used + sum(heights) > room:
                found.append([])
                used = 0
            for index, height in enumerate(heights):
                if found[-1] and used + height > room:
                    found.append([])
                    used = 0
                found[-1].append(Line(row, index * self.across, height))
                used += height + (self.apart - 2 * GAP if index == len(heights) - 1 else 0)
        return found

    @property
    def count(self) -> int:
        return len(self.down) * len(self.columns)

    def pages(self) -> Iterator[tuple[list[Line], range]]:
        return itertools.product(self.down, self.columns)


def fit(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the same shape that fits the box."""
    scale = min(box[0] / size[0], box[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
