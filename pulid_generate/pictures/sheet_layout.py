"""Where everything goes on the pages of a sheet: sizes of thumbnails, heights of lines, page
breaks.

Measures pictures by their headers and texts by their font; draws nothing. Imports no torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from pulid_extract.shared.captions import SIZE, font_of, line_height, wrap
from pulid_generate.pictures.sheet_grid import Heading, PictureSource, SheetGrid, Thumbnail

Size = tuple[int, int]  # width, height

# width and height of a page, at most; viewers give up on larger ones
PAGE = 4096
# longer side of a thumbnail: the first with which all fits on one page
SIDES = (384, 256, 160)
# where nothing does
PAGED_SIDE = 256
# small pictures are scaled up until their longer side is at least this
SMALLEST_SIDE = 192
# around a page; between the thumbnails of a cell; between cells
MARGIN, GAP, CELL_GAP = 16, 8, 24
# for the number of a page
FOOT = 32
# thumbnails of a cell; more stand in a square
MOST_IN_A_LINE = 3
# of a caption or a heading
MOST_TEXT_LINES = 8
HEADING_SIZE, TITLE_SIZE = 17, 20
# longer side of the picture in a heading
PORTRAIT = 160
NARROWEST_HEADING = 60


@dataclass(frozen=True)
class PageLine:
    """A line of thumbnails across a page: those of `row` from `start` on, in each cell."""

    row: int
    start: int
    height: int


class Layout:
    """The places of everything if a thumbnail's longer side is `side`.

    sizes: of all pictures. Every thumbnail has a box of one size, `box`.
    """

    def __init__(self, grid: SheetGrid, sizes: Collection[Size], side: int):
        self.grid, self.side = grid, side
        self.caption_font = font_of(SIZE)
        self.heading_font = font_of(HEADING_SIZE)
        self.title_font = font_of(TITLE_SIZE)

        fitted = [fit(size, (side, side)) for size in sizes]
        self.box: Size = max(width for width, _ in fitted), max(height for _, height in fitted)
        self.heading_width = self._heading_width()
        self.left = MARGIN
        if grid.rows:
            self.left += self.heading_width + CELL_GAP
        self.body_width = PAGE - MARGIN - self.left

        # thumbnails of a cell beside each other
        self.across = self._across()
        self.column_width = self.across * (self.box[0] + GAP) - GAP
        self.cell_gap = CELL_GAP if self.across > 1 else 2 * GAP

    def _heading_width(self) -> int:
        """Of the headings before rows: as wide as their texts need, and no wider than a
        thumbnail.
        """
        wanted = 0
        for heading in self.grid.rows:
            if heading.picture is not None:
                wanted = max(wanted, PORTRAIT)
            for text in heading.text.splitlines():
                wanted = max(wanted, math.ceil(self.heading_font.getlength(text)))
        return min(max(wanted, NARROWEST_HEADING), max(self.box[0], PORTRAIT))

    def _across(self) -> int:
        most = max(map(len, itertools.chain.from_iterable(self.grid.cells)), default=1)
        if most > MOST_IN_A_LINE:
            most = math.ceil(math.sqrt(most))
        fitting = (self.body_width + GAP) // (self.box[0] + GAP)
        return max(1, min(most, fitting))

    @cached_property
    def columns(self) -> list[range]:
        """The columns of each page across."""
        width = self.column_width + self.cell_gap
        fitting = max(1, (self.body_width + self.cell_gap) // width)
        count = len(self.grid.cells[0])
        return [range(start, min(start + fitting, count)) for start in range(0, count, fitting)]

    @cached_property
    def width(self) -> int:
        """Of every page, so that they can be laid side by side."""
        most = max(len(columns) for columns in self.columns)
        cells = most * (self.column_width + self.cell_gap) - self.cell_gap
        title = 0
        for line in self.grid.title.splitlines():
            title = max(title, math.ceil(self.title_font.getlength(line)))
        titled = min(title, 2 * self.side) + 2 * MARGIN
        return min(PAGE, max(self.left + cells + MARGIN, titled))

    @cached_property
    def title(self) -> list[str]:
        """The title's lines."""
        if not self.grid.title:
            return []
        return wrap(self.grid.title, self.width - 2 * MARGIN, self.title_font, MOST_TEXT_LINES)

    @cached_property
    def top(self) -> int:
        """Where the thumbnails begin: under the title and the columns' headings."""
        top = MARGIN + self._headings_height()
        if self.title:
            top += len(self.title) * line_height(self.title_font) + GAP
        return top

    def _headings_height(self) -> int:
        heights = [self.heading_height(one, self.column_width) for one in self.grid.columns]
        highest = max(heights, default=0)
        return highest + GAP if highest else 0

    def heading_lines(self, heading: Heading, width: int) -> list[str]:
        """Its text, broken at `width`."""
        if not heading.text:
            return []
        return wrap(heading.text, width, self.heading_font, MOST_TEXT_LINES)

    def heading_height(self, heading: Heading, width: int) -> int:
        """Of its picture and its text."""
        height = len(self.heading_lines(heading, width)) * line_height(self.heading_font)
        if heading.picture is not None:
            height += min(PORTRAIT, width) + GAP
        return height

    def caption_lines(self, thumbnail: Thumbnail) -> list[str]:
        """Its caption, no wider than its box."""
        if not thumbnail.caption:
            return []
        return wrap(thumbnail.caption, self.box[0], self.caption_font, MOST_TEXT_LINES)

    def _line_heights(self, row: int) -> list[int]:
        """Of each line of a row; the last makes room for a heading that is higher than all."""
        cells = self.grid.cells[row]
        heights = []
        for start in range(0, max([1, *map(len, cells)]), self.across):
            texts = [0]
            for cell in cells:
                for thumbnail in cell[start : start + self.across]:
                    texts.append(len(self.caption_lines(thumbnail)))
            captions = max(texts) * line_height(self.caption_font)
            heights.append(self.box[1] + captions + 2 * GAP)
        if self.grid.rows:
            heading = self.heading_height(self.grid.rows[row], self.heading_width) + GAP
            heights[-1] += max(0, heading - sum(heights))
        return heights

    @cached_property
    def down(self) -> list[list[PageLine]]:
        """The lines of each page down. A row stays together if a page can hold it."""
        room = PAGE - MARGIN - FOOT - self.top
        pages: list[list[PageLine]] = [[]]
        used = 0
        for row in range(len(self.grid.cells)):
            heights = self._line_heights(row)
            if pages[-1] and used + sum(heights) > room:
                pages.append([])
                used = 0
            for index, height in enumerate(heights):
                if pages[-1] and used + height > room:
                    pages.append([])
                    used = 0
                pages[-1].append(PageLine(row, index * self.across, height))
                used += height
            used += self.row_gap
        return pages

    @property
    def row_gap(self) -> int:
        """Between rows, beyond what is below every line."""
        return self.cell_gap - 2 * GAP

    @property
    def count(self) -> int:
        """How many pages there are."""
        return len(self.down) * len(self.columns)

    def pages(self) -> Iterator[tuple[list[PageLine], range]]:
        """The lines and the columns of each page, all of a page's columns first."""
        return itertools.product(self.down, self.columns)


def choose_layout(grid: SheetGrid) -> Layout:
    """With thumbnails as large as fit on one page; in one size on several, if none do."""
    sizes: set[Size | None] = set()
    for row in grid.cells:
        for cell in row:
            sizes.update(picture_size(one.picture) for one in cell)
    known = {size for size in sizes if size is not None} or {(PAGED_SIDE, PAGED_SIDE)}
    sides = sides_for(known)
    for side in sides:
        layout = Layout(grid, known, side)
        if layout.count == 1:
            return layout
    return Layout(grid, known, min(PAGED_SIDE, sides[0]))


def picture_size(picture: PictureSource | None) -> Size | None:
    """From a file's header; None for a picture that is missing or cannot be read."""
    if picture is None:
        return None
    if isinstance(picture, np.ndarray):
        return picture.shape[1], picture.shape[0]
    try:
        with Image.open(picture) as image:
            return image.size
    # Pillow's plugins raise whatever a damaged byte leads to
    except Exception:
        return None


def sides_for(sizes: Collection[Size]) -> list[int]:
    """Sides worth trying, the largest first: pictures are not blown up beyond what is good to look
    at.
    """
    longest = max(map(max, sizes))
    most = longest * max(1, math.ceil(SMALLEST_SIDE / longest))
    return list(dict.fromkeys(min(side, most) for side in SIDES))


def fit(size: Size, box: Size) -> Size:
    """The largest size of the same shape that fits the box."""
    scale = min(box[0] / size[0], box[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
