"""Pictures for people who would rather look: faces marked on a photograph, captioned tiles on a
sheet, PNG bytes.

Pictures are uint8 RGB (H, W, 3). Nothing here depends on fonts of the machine, so the same input
gives the same pixels. Knows nothing of faces beyond boxes and points.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from pulid_extract.shared.captions import INK, PAPER, RIM, Font, font_of, line_height, wrap

BOX, CHOSEN, POINT = (255, 200, 0), (0, 220, 90), (255, 60, 60)
# pixels around a sheet and between its tiles
MARGIN = 12
# widths of a face that its further lines may take
DETAILS_WIDTH = 2
# a line is one pixel wide for each of these on the longer side
LINES_PER_SIDE = 320


@dataclass(frozen=True)
class Mark:
    """One face to draw."""

    # (x1, y1, x2, y2)
    box: tuple[float, float, float, float]
    # (5, 2), or None
    points: np.ndarray | None = None
    # on the box
    caption: str = ""
    # in the other colour
    chosen: bool = False
    # further lines, where the face is large enough for them not to hide its neighbours
    details: str = ""


def draw_faces(image: np.ndarray, marks: Sequence[Mark]) -> np.ndarray:
    """The picture with every face's box, landmarks and caption. image: uint8 RGB (H, W, 3); it is
    not changed.
    """
    canvas = Image.fromarray(image).convert("RGB")
    draw = ImageDraw.Draw(canvas)
    width = max(1, round(max(canvas.size) / LINES_PER_SIDE))
    # the chosen one last, above the others
    for mark in sorted(marks, key=lambda mark: mark.chosen):
        colour = CHOSEN if mark.chosen else BOX
        draw.rectangle(mark.box, outline=colour, width=width)
        for x, y in mark.points if mark.points is not None else ():
            draw.ellipse((x - width, y - width, x + width, y + width), fill=POINT)
        if mark.caption:
            _caption(draw, mark, colour, canvas.size)
    return np.asarray(canvas)


def _caption(
    draw: ImageDraw.ImageDraw, mark: Mark, colour: tuple[int, int, int], size: tuple[int, int]
) -> None:
    """On a patch of the box's colour at its upper left corner, moved inside the picture."""
    font = font_of(max(12, round(max(size) / 45)))
    text = mark.caption
    room = DETAILS_WIDTH * (mark.box[2] - mark.box[0])
    if mark.details and draw.textbbox((0, 0), mark.details, font=font)[2] <= room:
        text = f"{mark.caption}\n{mark.details}"
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    wide, high = right - left + 6, bottom - top + 6
    x = min(max(mark.box[0], 0), max(size[0] - wide, 0))
    y = min(max(mark.box[1] - high, 0), max(size[1] - high, 0))
    draw.rectangle((x, y, x + wide, y + high), fill=colour)
    draw.text((x + 3 - left, y + 3 - top), text, fill=INK, font=font)


def sheet(rows: Sequence[Sequence[tuple[str, np.ndarray]]], height: int = 384) -> np.ndarray:
    """Rows of captioned tiles on white, each scaled to `height` pixels: uint8 RGB. A row is
    (caption, uint8 RGB picture) tiles.

    A caption may hold several lines; one that is wider than its tile is broken at spaces.
    """
    font = font_of()
    line = line_height(font)
    scaled, widths, heights = [], [], []
    for row in rows:
        tiles = [_tile(caption, picture, height, font) for caption, picture in row]
        scaled.append(tiles)
        widths.append(sum(tile.width + MARGIN for tile, _ in tiles))
        heights.append(max(len(lines) for _, lines in tiles) * line + height + MARGIN)
    canvas = Image.new("RGB", (max(widths) + MARGIN, sum(heights) + MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    top = MARGIN
    for tiles, high in zip(scaled, heights, strict=True):
        left = MARGIN
        for tile, lines in tiles:
            canvas.paste(tile, (left, top))
            # or white would run into white
            draw.rectangle((left - 1, top - 1, left + tile.width, top + height), outline=RIM)
            for number, text in enumerate(lines):
                draw.text((left, top + height + 2 + number * line), text, fill=INK, font=font)
            left += tile.width + MARGIN
        top += high
    return np.asarray(canvas)


def _tile(
    caption: str, picture: np.ndarray, height: int, font: Font
) -> tuple[Image.Image, list[str]]:
    """The picture at this height, and the lines below it."""
    tile = _scaled(picture, height)
    return tile, wrap(caption, tile.width, font)


def _scaled(picture: np.ndarray, height: int) -> Image.Image:
    """To this height; a panorama is fitted into three heights of width, so that one tile does not
    fill the sheet.
    """
    image = Image.fromarray(picture).convert("RGB")
    width = max(1, round(image.width * height / image.height))
    if width > 3 * height:
        high = max(1, round(image.height * 3 * height / image.width))
        small = image.resize((3 * height, high), Image.Resampling.LANCZOS)
        canvas = Image.new("RGB", (3 * height, height), PAPER)
        canvas.paste(small, (0, (height - high) // 2))
        return canvas
    return image.resize((width, height), Image.Resampling.LANCZOS)


def encode_png(picture: np.ndarray) -> bytes:
    """uint8 RGB (H, W, 3) as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
