"""Labelled grids of pictures on sheets: heads over columns and before rows, tiles with captions,
more pages where one would be too large.

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

`flow(tiles)` is a grid without heads. A picture is a file, read when its page is drawn, or uint8
RGB (H, W, 3); one that cannot be read is an empty tile that says so. All tiles of a grid have one
size; small pictures are scaled up. Heads are repeated on every page. The same input gives the same
pixels on every machine. Knows no model, no flag and no row of a batch. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pulid_extract.shared.writing import write_atomically
from pulid_generate.pictures.picture import encode_pixels, format_of
from pulid_generate.pictures.sheet_layout import (
    PAGED_SIDE,
    Grid,
    Layout,
    sides,
    size,
)
from pulid_generate.pictures.sheet_page import Page


def write_sheet(
    path: Path, grid: Grid, say: Callable[[str], None] = lambda line: None, mode: int | None = None
) -> list[Path]:
    """Write the grid's pages and give their names. say: gets a line if there are several. mode:
    permission bits. Raises OutputError.
    """
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
    return (
        stem is not None
        and name.suffix.lower() == path.suffix.lower()
        and name.parent.resolve() == path.parent.resolve()
    )


def pages(grid: Grid) -> Iterator[np.ndarray]:
    """The pages, uint8 RGB (H, W, 3), each at most PAGE pixels wide, and as high but for a tile
    that is higher.
    """
    shapes = {
        found
        for row in grid.cells
        for cell in row
        for tile in cell
        if (found := size(tile.picture))
    } or {(PAGED_SIDE, PAGED_SIDE)}
    layouts = [Layout(grid, shapes, side) for side in sides(shapes)]
    layout = next((one for one in layouts if one.count == 1), None) or Layout(
        grid, shapes, min(PAGED_SIDE, layouts[0].side)
    )
    for number, (lines, columns) in enumerate(layout.pages(), 1):
        yield np.asarray(Page(layout, lines, columns, number).draw())


# ----------------------------------------------------------------------------------------- measures


# ------------------------------------------------------------------------------------------ drawing
