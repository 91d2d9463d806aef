"""TODO"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from pulid_extract.shared.captions import INK, PAPER, RIM, line_height, wrap
from pulid_generate.pictures.sheet_layout import (
    FOOT,
    GAP,
    MARGIN,
    PORTRAIT,
    Head,
    Layout,
    Line,
    Picture,
    Tile,
    fit,
)

EMPTY, ALARM = (244, 244, 244), (170, 40, 30)


class Page:
    """One page. lines, columns: what of the grid is on it."""

    def __init__(self, layout: Layout, lines: Sequence[Line], columns: range, number: int):
        self.layout, self.lines, self.columns, self.number = layout, lines, columns, number
        bottom = sum(line.height for line in lines) + (len({line.row for line in lines}) - 1) * (
            layout.apart - 2 * GAP
        )
        foot = FOOT if layout.count > 1 else 0
        self.canvas = Image.new(
            "RGB", (layout.width, layout.top + bottom + MARGIN - GAP + foot), PAPER
        )
        self.pen = ImageDraw.Draw(self.canvas)

    def draw(self) -> Image.Image:
        layout, grid = self.layout, self.layout.grid
        self._lines(layout.title, (MARGIN, MARGIN), layout.title_font)
        if layout.count > 1:
            self._lines(
                [f"page {self.number} of {layout.count}"],
                (MARGIN, self.canvas.height - FOOT),
                layout.caption_font,
            )
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
        self._lines(
            self.layout.caption_lines(tile),
            (left, top + self.layout.box[1] + 3),
            self.layout.caption_font,
        )

    def _paste(
        self,
        picture: Picture | None,
        place: tuple[int, int],
        box: tuple[int, int],
        reason: str = "",
        at_top: bool = False,
    ) -> None:
        """The picture at the bottom of its box, above its caption, or at the top; an empty box with
        the reason where there is none.
        """
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
            (left - 1, top - 1, left + box[0], top + box[1]),
            outline=RIM,
            fill=None if image is not None else EMPTY,
        )
        if image is None:
            font = self.layout.caption_font
            most = max(1, (box[1] - 2 * GAP) // line_height(font))
            self._lines(
                wrap(reason, box[0] - 2 * GAP, font, most), (left + GAP, top + GAP), font, ALARM
            )

    def _lines(
        self,
        lines: Sequence[str],
        place: tuple[int, int],
        font: Any,
        ink: tuple[int, int, int] = INK,
    ) -> None:
        for number, text in enumerate(lines):
            self.pen.text(
                (place[0], place[1] + number * line_height(font)), text, fill=ink, font=font
            )


def _scaled(picture: Picture, box: tuple[int, int]) -> Image.Image:
    """The picture, upright, as large as fits the box."""
    if isinstance(picture, np.ndarray):
        image = Image.fromarray(picture)
    else:
        with Image.open(picture) as file:
            file.draft("RGB", (2 * box[0], 2 * box[1]))  # a large JPEG is decoded smaller
            image = ImageOps.exif_transpose(file) or file
            image.load()
    return image.convert("RGB").resize(fit(image.size, box), Image.Resampling.LANCZOS)
