"""One page of a sheet, drawn as a layout has measured it. Decides no place by itself. Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from pulid_extract.shared.captions import INK, PAPER, RIM, Font, line_height, wrap
from pulid_generate.pictures.sheet_grid import Heading, PictureSource, Thumbnail
from pulid_generate.pictures.sheet_layout import (
    FOOT,
    GAP,
    MARGIN,
    PORTRAIT,
    Layout,
    PageLine,
    Size,
    fit,
)

Colour = tuple[int, int, int]
Place = tuple[int, int]  # left, top

# of a box without a picture; of the reason in it
EMPTY, ALARM = (244, 244, 244), (170, 40, 30)
UNREADABLE = "cannot be read"
# between a thumbnail and its caption
CAPTION_GAP = 3


class Page:
    """One page. lines, columns: what of the grid is on it. number: of the page, from 1."""

    def __init__(self, layout: Layout, lines: Sequence[PageLine], columns: range, number: int):
        self.layout, self.lines, self.columns, self.number = layout, lines, columns, number
        rows = {line.row for line in lines}
        height = layout.top + sum(line.height for line in lines)
        height += (len(rows) - 1) * layout.row_gap + MARGIN - GAP
        if layout.count > 1:
            height += FOOT
        self.canvas = Image.new("RGB", (layout.width, height), PAPER)
        self.pen = ImageDraw.Draw(self.canvas)

    def draw(self) -> Image.Image:
        """The whole page, RGB."""
        layout = self.layout
        self._write(layout.title, (MARGIN, MARGIN), layout.title_font)
        if layout.count > 1:
            foot = [f"page {self.number} of {layout.count}"]
            self._write(foot, (MARGIN, self.canvas.height - FOOT), layout.caption_font)
        if layout.grid.columns:
            self._draw_column_headings()
        self._draw_lines()
        return self.canvas

    def _draw_column_headings(self) -> None:
        """At the bottom of their row, so that all end above the thumbnails."""
        layout = self.layout
        for index, column in enumerate(self.columns):
            heading = layout.grid.columns[column]
            height = layout.heading_height(heading, layout.column_width)
            place = self._left_of(index), layout.top - GAP - height
            self._draw_heading(heading, place, layout.column_width)

    def _draw_lines(self) -> None:
        layout, grid = self.layout, self.layout.grid
        top = layout.top
        last_row = None
        for line in self.lines:
            if last_row is not None and line.row != last_row:
                top += layout.row_gap
            if grid.rows and line.row != last_row:
                self._draw_heading(grid.rows[line.row], (MARGIN, top), layout.heading_width)
            for index, column in enumerate(self.columns):
                cell = grid.cells[line.row][column]
                left = self._left_of(index)
                for thumbnail in cell[line.start : line.start + layout.across]:
                    self._draw_thumbnail(thumbnail, (left, top))
                    left += layout.box[0] + GAP
            top += line.height
            last_row = line.row

    def _left_of(self, index: int) -> int:
        """Of a column on this page."""
        return self.layout.left + index * (self.layout.column_width + self.layout.cell_gap)

    def _draw_heading(self, heading: Heading, place: Place, width: int) -> None:
        left, top = place
        if heading.picture is not None:
            side = min(PORTRAIT, width)
            image = read_scaled(heading.picture, (side, side))
            self._draw_box(image, place, (side, side), UNREADABLE)
            top += side + GAP
        lines = self.layout.heading_lines(heading, width)
        self._write(lines, (left, top), self.layout.heading_font)

    def _draw_thumbnail(self, thumbnail: Thumbnail, place: Place) -> None:
        """The picture at the bottom of its box, above its caption."""
        left, top = place
        width, height = self.layout.box
        image, reason = None, thumbnail.reason
        if thumbnail.picture is not None:
            image = read_scaled(thumbnail.picture, (width, height))
            reason = UNREADABLE
        above = height - image.height if image is not None else 0
        self._draw_box(image, (left, top + above), (width, height), reason)
        lines = self.layout.caption_lines(thumbnail)
        self._write(lines, (left, top + height + CAPTION_GAP), self.layout.caption_font)

    def _draw_box(self, image: Image.Image | None, place: Place, box: Size, reason: str) -> None:
        """The picture, with a rim; an empty box of that size with the reason where there is
        none.
        """
        left, top = place
        if image is not None:
            self.canvas.paste(image, place)
            box = image.size
        rim = left - 1, top - 1, left + box[0], top + box[1]
        self.pen.rectangle(rim, outline=RIM, fill=EMPTY if image is None else None)
        if image is None:
            font = self.layout.caption_font
            most = max(1, (box[1] - 2 * GAP) // line_height(font))
            lines = wrap(reason, box[0] - 2 * GAP, font, most)
            self._write(lines, (left + GAP, top + GAP), font, ALARM)

    def _write(self, lines: Sequence[str], place: Place, font: Font, ink: Colour = INK) -> None:
        left, top = place
        for text in lines:
            self.pen.text((left, top), text, fill=ink, font=font)
            top += line_height(font)


def read_scaled(picture: PictureSource, box: Size) -> Image.Image | None:
    """The picture, upright, RGB, as large as fits the box; None for one that cannot be read."""
    try:
        if isinstance(picture, np.ndarray):
            image = Image.fromarray(picture)
        else:
            with Image.open(picture) as file:
                # a large JPEG is decoded smaller
                file.draft("RGB", (2 * box[0], 2 * box[1]))
                image = ImageOps.exif_transpose(file) or file
                image.load()
        return image.convert("RGB").resize(fit(image.size, box), Image.Resampling.LANCZOS)
    # Pillow's plugins raise whatever a damaged byte leads to
    except Exception:
        return None
