"""Labelled grids of pictures on sheets: headings over columns and before rows, thumbnails with
captions, more pages where one would be too large.

    cells = [
        # cells[row][column] is a list of thumbnails
        [[Thumbnail("a.png", "seed 1"), Thumbnail("b.png", "seed 2")], [Thumbnail("c.png")]],
        # one that was not drawn, and why; a cell with nothing in it
        [[Thumbnail(None, "seed 1", reason="no room left")], []],
    ]
    columns = [Heading("in the rain"), Heading("at night")]
    rows = [Heading("ada", picture="ada.jpg"), Heading("bob")]
    grid = SheetGrid(cells, columns, rows, title="micro models, 4 steps")
    # grid.png, and grid-2.png, .. if there are more pages
    written = write_sheet(Path("grid.png"), grid, log=console.log)

One that cannot be read is an empty box that says so. All thumbnails of a grid have one size; small
pictures are scaled up. Headings are repeated on every page. The same input gives the same pixels on
every machine. Knows no model, no flag and no row of a batch. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pulid_extract.shared.writing import write_atomically
from pulid_generate.pictures.picture import encode_pixels, format_of
from pulid_generate.pictures.sheet_grid import SheetGrid
from pulid_generate.pictures.sheet_layout import choose_layout
from pulid_generate.pictures.sheet_page import Page


def write_sheet(
    path: Path,
    grid: SheetGrid,
    log: Callable[[str], None] = lambda line: None,
    mode: int | None = None,
) -> list[Path]:
    """Write the grid's pages and give their names. log: gets a line if there are several. mode:
    permission bits. Raises OutputError.
    """
    written = []
    for page, data in sheet_files(path, grid, log):
        write_atomically(page, data, mode)
        written.append(page)
    return written


def sheet_files(
    path: Path, grid: SheetGrid, log: Callable[[str], None]
) -> Iterator[tuple[Path, bytes]]:
    """The names and the bytes of the grid's pages. log: as of `write_sheet`."""
    number, name = 0, path
    for number, page in enumerate(pages(grid), 1):
        name = page_path(path, number)
        yield name, encode_pixels(page, format_of(path), None)
    if number > 1:
        log(f"{path}: too large for one page, {number} pages, the last is {name}")


def page_path(path: Path, number: int) -> Path:
    """grid.png, grid-2.png, grid-3.png, .."""
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")


def is_page(name: Path, path: Path) -> bool:
    """Whether the sheet at `path` may come to be written to `name`."""
    if not re.fullmatch(rf"{re.escape(path.stem)}(-\d+)?", name.stem, re.IGNORECASE):
        return False
    is_same_format = name.suffix.lower() == path.suffix.lower()
    return is_same_format and name.parent.resolve() == path.parent.resolve()


def pages(grid: SheetGrid) -> Iterator[np.ndarray]:
    """The pages, uint8 RGB (H, W, 3), each at most PAGE pixels wide, and as high but for a
    thumbnail that is higher.
    """
    layout = choose_layout(grid)
    for number, (lines, columns) in enumerate(layout.pages(), 1):
        yield np.asarray(Page(layout, lines, columns, number).draw())
