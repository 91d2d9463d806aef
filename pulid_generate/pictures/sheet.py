"""Labelled grids of pictures on sheets: heads over columns and before rows, tiles with captions, more pages where one would be too large.

    grid = Grid(
        cells=[                                                             # cells[row][column] is a list of tiles
            [[Tile("a.png", "seed 1"), Tile("b.png", "seed 2")], [Tile("c.png", "seed 1\\nlikeness 0.71")]],
            [[Tile(None, "seed 1", reason="no room left")], []],            # not drawn, and why; nothing at all
        ],
        columns=[Head("in the rain"), Head("at night")],
        rows=[Head("ada", picture="ada.jpg"), Head("bob")],                 # a portrait before the row
        title="micro models, 4 steps",
    )
    written = write_sheet(Path("grid.png"), grid, say=console.log)          # grid.png, and grid-2.png, .. if there are more pages

`flow(tiles)` is a grid without heads. A picture is a file, read when its page is drawn, or uint8 RGB (H, W, 3); one that cannot be read is an
empty tile that says so. All tiles of a grid have one size; small pictures are scaled up. Heads are repeated on every page.
The same input gives the same pixels on every machine. Knows no model, no flag and no row of a batch. Imports no torch.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from pulid_extract.shared.captions import INK, PAPER, RIM, SIZE, font_of, line_height, wrap
from pulid_extract.shared.writing import write_atomically
from pulid_generate.pictures.picture import encode_pixels, format_of

Picture: TypeAlias = "str | Path | np.ndarray"

SIDES = (384, 256, 160)  # longer side of a tile, in pixels: the first with which all fits on one page
PAGED_SIDE = 256  # where nothing does
SMALL_TWICE = 192  # side of a tile to which small pictures are scaled up at least
PAGE = 4096  # width and height of a page, at most; viewers give up on larger ones
MARGIN, GAP, APART = 16, 8, 24  # around a page; between the tiles of a cell; between cells
FOOT = 32  # for the number of a page
IN_A_LINE = 3  # tiles of a cell; more stand in a square
MOST_LINES = 8  # of a caption or a head
HEAD_SIZE, TITLE_SIZE = 17, 20
EMPTY, ALARM = (244, 244, 244), (170, 40, 30)
PORTRAIT = 160  # longer side of a picture in a head
NARROWEST_HEAD = 60


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture, and what is said under it, in lines. picture: None for one that is missing; reason: why, told in its place."""

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
    """cells[row][column]: tiles, shown beside and below each other. columns, rows: a head for each, or none at all."""

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


def write_sheet(path: Path, grid: Grid, say: Callable[[str], None] = lambda line: None, mode: int | None = None) -> list[Path]:
    """Write the grid's pages and give their names. say: gets a line if there are several. mode: permission bits. Raises OutputError."""
    written = []
    for number, page in enumerate(pages(grid), 1):
        written.append(page_path(path, number))
        write_atomically(written[-1], encode_pixels(page, format_of(path), None), mode)
    if len(written) > 1:
        say(f"{path}: too large for one page, {len(written)} pages, the last is {written[-1]}")
    return written


def page_path(path: Path, number: int) -> Path:
    """grid.png, grid-2.png, grid-3.png, .."""
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")


def is_page(name: Path, path: Path) -> bool:
    """Whether the sheet at `path` may come to be written to `name`."""
    stem = re.fullmatch(rf"{re.escape(path.stem)}(-\d+)?", name.stem, re.IGNORECASE)
    return stem is not None and name.suffix.lower() == path.suffix.lower() and name.parent.resolve() == path.parent.resolve()


def pages(grid: Grid) -> Iterator[np.ndarray]:
    """The pages, uint8 RGB (H, W, 3), each at most PAGE pixels wide, and as high but for a tile that is higher."""
    shapes = {size for row in grid.cells for cell in row for tile in cell if (size := _size(tile.picture))} or {
        (PAGED_SIDE, PAGED_SIDE)
    }
    layouts = [_Layout(grid, shapes, side) for side in _sides(shapes)]
    layout = next((one for one in layouts if one.count == 1), None) or _Layout(grid, shapes, min(PAGED_SIDE, layouts[0].side))
    for number, (lines, columns) in enumerate(layout.pages(), 1):
        yield np.asarray(_Page(layout, lines, columns, number).draw())


# ---------------------------------------------------------------------------------------------------------------------- measures


def _size(picture: Picture | None) -> tuple[int, int] | None:
    """(width, height), from a file's header."""
    if isinstance(picture, np.ndarray):
        return picture.shape[1], picture.shape[0]
    try:
        return None if picture is None else Image.open(picture).size
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _sides(shapes: Collection[tuple[int, int]]) -> list[int]:
    """Sides worth trying: pictures are not blown up beyond what is good to look at."""
    longest = max(map(max, shapes))
    most = longest * max(1, -(-SMALL_TWICE // longest))
    return list(dict.fromkeys(min(side, most) for side in SIDES))


@dataclass(frozen=True)
class _Line:
    """A line of tiles: those of `row` from `start` on, in each cell."""

    row: int
    start: int
    height: int


class _Layout:
    """Where things go if a tile's longer side is `side`. box: (width, height) of every tile's picture."""

    def __init__(self, grid: Grid, shapes: Collection[tuple[int, int]], side: int):
        self.grid, self.side = grid, side
        self.caption_font, self.head_font, self.title_font = font_of(SIZE), font_of(HEAD_SIZE), font_of(TITLE_SIZE)
        fitted = [_fit(shape, (side, side)) for shape in shapes]
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
        fitting = max(1, (self.body[1] - self.body[0] + self.apart) // (self.column_width + self.apart))
        every = len(self.grid.cells[0])
        return [range(start, min(start + fitting, every)) for start in range(0, every, fitting)]

    @cached_property
    def width(self) -> int:
        """Of every page, so that they can be laid side by side."""
        most = max(len(columns) for columns in self.columns)
        tiles = self.body[0] + most * (self.column_width + self.apart) - self.apart + MARGIN
        title = math.ceil(max((self.title_font.getlength(line) for line in self.grid.title.splitlines()), default=0))
        return min(PAGE, max(tiles, min(title + 2 * MARGIN, 2 * self.side + 2 * MARGIN)))

    @cached_property
    def title(self) -> list[str]:
        return wrap(self.grid.title, self.width - 2 * MARGIN, self.title_font, MOST_LINES) if self.grid.title else []

    @cached_property
    def top(self) -> int:
        """Where the tiles begin: under the title and the columns' heads."""
        title = len(self.title) * line_height(self.title_font) + GAP if self.title else 0
        return MARGIN + title + self.heads_height

    @cached_property
    def heads_height(self) -> int:
        highest = max((self.head_height(head, self.column_width) for head in self.grid.columns), default=0)
        return highest + GAP if highest else 0

    def head_lines(self, head: Head, width: int) -> list[str]:
        return wrap(head.text, width, self.head_font, MOST_LINES) if head.text else []

    def head_height(self, head: Head, width: int) -> int:
        picture = min(PORTRAIT, width) + GAP if head.picture is not None else 0
        return picture + len(self.head_lines(head, width)) * line_height(self.head_font)

    def caption_lines(self, tile: Tile) -> list[str]:
        return wrap(tile.caption, self.box[0], self.caption_font, MOST_LINES) if tile.caption else []

    def _line_heights(self, row: int) -> list[int]:
        cells = self.grid.cells[row]
        heights = []
        for start in range(0, max([1, *map(len, cells)]), self.across):
            tiles = [tile for cell in cells for tile in cell[start : start + self.across]]
            captions = max((len(self.caption_lines(tile)) for tile in tiles), default=0)
            heights.append(self.box[1] + captions * line_height(self.caption_font) + 2 * GAP)
        return heights

    @cached_property
    def down(self) -> list[list[_Line]]:
        """The lines of each page down. A row stays together if a page can hold it."""
        room = PAGE - MARGIN - FOOT - self.top
        found: list[list[_Line]] = [[]]
        used = 0
        for row in range(len(self.grid.cells)):
            heights = self._line_heights(row)
            if self.grid.rows:  # the last line makes room for a head that is higher
                heights[-1] += max(0, self.head_height(self.grid.rows[row], self.head_width) + GAP - sum(heights))
            if found[-1] and used + sum(heights) > room:
                found.append([])
                used = 0
            for index, height in enumerate(heights):
                if found[-1] and used + height > room:
                    found.append([])
                    used = 0
                found[-1].append(_Line(row, index * self.across, height))
                used += height + (self.apart - 2 * GAP if index == len(heights) - 1 else 0)
        return found

    @property
    def count(self) -> int:
        return len(self.down) * len(self.columns)

    def pages(self) -> Iterator[tuple[list[_Line], range]]:
        return itertools.product(self.down, self.columns)


# ----------------------------------------------------------------------------------------------------------------------- drawing


class _Page:
    """One page. lines, columns: what of the grid is on it."""

    def __init__(self, layout: _Layout, lines: Sequence[_Line], columns: range, number: int):
        self.layout, self.lines, self.columns, self.number = layout, lines, columns, number
        bottom = sum(line.height for line in lines) + (len({line.row for line in lines}) - 1) * (layout.apart - 2 * GAP)
        foot = FOOT if layout.count > 1 else 0
        self.canvas = Image.new("RGB", (layout.width, layout.top + bottom + MARGIN - GAP + foot), PAPER)
        self.pen = ImageDraw.Draw(self.canvas)

    def draw(self) -> Image.Image:
        layout, grid = self.layout, self.layout.grid
        self._lines(layout.title, (MARGIN, MARGIN), layout.title_font)
        if layout.count > 1:
            self._lines([f"page {self.number} of {layout.count}"], (MARGIN, self.canvas.height - FOOT), layout.caption_font)
        if grid.columns:
            for place, column in enumerate(self.columns):
                head = grid.columns[column]
                high = layout.head_height(head, layout.column_width)
                self._head(head, (self._left(place), layout.top - GAP - high), layout.column_width)
        top, last = layout.top, None
        for line in self.lines:
            if last not in (None, line.row):
                top += layout.apart - 2 * GAP
            if grid.rows and last != line.row:
                self._head(grid.rows[line.row], (MARGIN, top), layout.head_width)
            for place, column in enumerate(self.columns):
                tiles = grid.cells[line.row][column][line.start : line.start + layout.across]
                for index, tile in enumerate(tiles):
                    self._tile(tile, self._left(place) + index * (layout.box[0] + GAP), top)
            top, last = top + line.height, line.row
        return self.canvas

    def _left(self, place: int) -> int:
        return self.layout.body[0] + place * (self.layout.column_width + self.layout.apart)

    def _head(self, head: Head, place: tuple[int, int], width: int) -> None:
        left, top = place
        if head.picture is not None:
            side = min(PORTRAIT, width)
            self._paste(head.picture, (left, top), (side, side), at_top=True)
            top += side + GAP
        self._lines(self.layout.head_lines(head, width), (left, top), self.layout.head_font)

    def _tile(self, tile: Tile, left: int, top: int) -> None:
        self._paste(tile.picture, (left, top), self.layout.box, tile.reason)
        self._lines(self.layout.caption_lines(tile), (left, top + self.layout.box[1] + 3), self.layout.caption_font)

    def _paste(
        self, picture: Picture | None, place: tuple[int, int], box: tuple[int, int], reason: str = "", at_top: bool = False
    ) -> None:
        """The picture at the bottom of its box, above its caption, or at the top; an empty box with the reason where there is none."""
        left, top = place
        image = None
        if picture is not None:
            try:
                image = _scaled(picture, box)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                reason = "cannot be read"
        if image is not None:
            top += 0 if at_top else box[1] - image.height
            self.canvas.paste(image, (left, top))
            box = image.size
        self.pen.rectangle(
            (left - 1, top - 1, left + box[0], top + box[1]), outline=RIM, fill=None if image is not None else EMPTY
        )
        if image is None:
            font = self.layout.caption_font
            most = max(1, (box[1] - 2 * GAP) // line_height(font))
            self._lines(wrap(reason, box[0] - 2 * GAP, font, most), (left + GAP, top + GAP), font, ALARM)

    def _lines(self, lines: Sequence[str], place: tuple[int, int], font: object, ink: tuple[int, int, int] = INK) -> None:
        for number, text in enumerate(lines):
            self.pen.text((place[0], place[1] + number * line_height(font)), text, fill=ink, font=font)  # type: ignore[arg-type]


def _fit(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the same shape that fits the box."""
    scale = min(box[0] / size[0], box[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _scaled(picture: Picture, box: tuple[int, int]) -> Image.Image:
    """The picture, upright, as large as fits the box."""
    if isinstance(picture, np.ndarray):
        image = Image.fromarray(picture)
    else:
        with Image.open(picture) as file:
            file.draft("RGB", (2 * box[0], 2 * box[1]))  # a large JPEG is decoded smaller
            image = ImageOps.exif_transpose(file) or file
            image.load()
    return image.convert("RGB").resize(_fit(image.size, box), Image.Resampling.LANCZOS)
