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
# pixels between a caption and the rim of its patch
PADDING = 3
# (x1, y1, x2, y2)
Rectangle = tuple[float, float, float, float]
# a line is one pixel wide for each of these on the longer side
LINES_PER_SIDE = 320


@dataclass(frozen=True)
class Mark:
    """One face to draw."""

    box: Rectangle
    # (5, 2), or None
    points: np.ndarray | None = None
    # beside the box
    caption: str = ""
    # in the other colour
    chosen: bool = False
    # further lines, where the face is large enough for them not to hide its neighbours
    details: str = ""


def draw_faces(image: np.ndarray, marks: Sequence[Mark]) -> np.ndarray:
    """The picture with every face's box, landmarks and caption, uint8 RGB. image: uint8 RGB
    (H, W, 3); it is not changed.

    A caption stands where it hides no face and no other caption. One that finds no such place
    stands in a strip below the picture, which makes it higher.
    """
    canvas = Image.fromarray(image).convert("RGB")
    width = max(1, round(max(canvas.size) / LINES_PER_SIDE))
    font = font_of(max(12, round(max(canvas.size) / 45)))
    labels = place_labels([_texts(mark, font) for mark in marks], marks, canvas.size, font)
    lowest = max([canvas.height, *(label.place[3] for label in labels)])
    if lowest > canvas.height:
        taller = Image.new("RGB", (canvas.width, int(lowest)), PAPER)
        taller.paste(canvas)
        canvas = taller
    draw = ImageDraw.Draw(canvas)
    # the chosen one last, above the others
    for mark, label in sorted(zip(marks, labels, strict=True), key=lambda pair: pair[0].chosen):
        colour = CHOSEN if mark.chosen else BOX
        draw.rectangle(mark.box, outline=colour, width=width)
        for x, y in mark.points if mark.points is not None else ():
            draw.ellipse((x - width, y - width, x + width, y + width), fill=POINT)
        if label.text:
            draw.rectangle(label.place, fill=colour)
            left, top, _, _ = draw.textbbox((0, 0), label.text, font=font)
            place = (label.place[0] + PADDING - left, label.place[1] + PADDING - top)
            draw.text(place, label.text, fill=INK, font=font)
    return np.asarray(canvas)


def _texts(mark: Mark, font: Font) -> list[str]:
    """What may stand at a face, the fullest first."""
    if not mark.caption:
        return [""]
    room = DETAILS_WIDTH * (mark.box[2] - mark.box[0])
    if mark.details and _text_size(mark.details, font)[0] <= room:
        return [f"{mark.caption}\n{mark.details}", mark.caption]
    return [mark.caption]


def _text_size(text: str, font: Font) -> tuple[int, int]:
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left, top, right, bottom = measure.textbbox((0, 0), text, font=font)
    return int(right - left), int(bottom - top)


@dataclass(frozen=True)
class Label:
    """A text and the rectangle that it fills."""

    text: str
    place: Rectangle


def place_labels(
    texts: Sequence[Sequence[str]], marks: Sequence[Mark], size: tuple[int, int], font: Font
) -> list[Label]:
    """A label for each mark, near its box, over no box and no other label, within the picture; in
    lines below the picture where there is no such place.

    texts: of each mark, the one that is preferred first. size: the picture's (width, height).
    """
    taken: list[Rectangle] = [mark.box for mark in marks]
    labels: list[Label] = []
    left, line = 0.0, float(size[1])
    for mark, choices in zip(marks, texts, strict=True):
        label = _near(choices, mark.box, taken, size, font)
        if label is None:
            wide, high = _patch(choices[-1], font)
            if left + wide > size[0] and left:
                left, line = 0.0, max(one.place[3] for one in labels)
            label = Label(choices[-1], (left, line, left + wide, line + high))
            left += wide + PADDING
        labels.append(label)
        if label.text:
            taken.append(label.place)
    return labels


def _near(
    choices: Sequence[str],
    box: Rectangle,
    taken: Sequence[Rectangle],
    size: tuple[int, int],
    font: Font,
) -> Label | None:
    if not choices[0]:
        return Label("", (0, 0, 0, 0))
    for text in choices:
        wide, high = _patch(text, font)
        left, right = box[0], box[2] - wide
        above, below = box[1] - high - 1, box[3] + 1
        beside = ((box[2] + 1, box[1]), (box[0] - wide - 1, box[1]))
        under = ((left, below), (right, below), *beside)
        for x, y in ((left, above), (right, above), *under, *_inside(above, below, size, wide)):
            place = (x, y, x + wide, y + high)
            within = x >= 0 and y >= 0 and place[2] < size[0] and place[3] < size[1]
            if within and not any(_overlap(place, other) for other in taken):
                return Label(text, place)
    return None


def _inside(
    above: float, below: float, size: tuple[int, int], wide: int
) -> list[tuple[float, float]]:
    """Places above and below a face whose box reaches beyond the picture's sides."""
    sides = (0.0, float(size[0] - wide - 1))
    return [(x, y) for y in (above, below) for x in sides]


def _patch(text: str, font: Font) -> tuple[int, int]:
    wide, high = _text_size(text, font)
    return wide + 2 * PADDING, high + 2 * PADDING


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    apart = one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]
    return not apart


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
