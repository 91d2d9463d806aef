"""Text on sheets of pictures, for both programs: one font, the same on every machine, and lines no
wider than their tile.

Knows no picture. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
PAPER, INK, RIM = (255, 255, 255), (20, 20, 20), (190, 190, 190)
# of a caption
SIZE = 15
ELLIPSIS = ".."


def font_of(size: int = SIZE) -> Font:
    """Pillow's own font, which no machine lacks."""
    return ImageFont.load_default(size)


def line_height(font: Font) -> int:
    """Pixels from one line to the next."""
    return sum(font.getmetrics()) + 2  # type: ignore[union-attr]


def wrap(caption: str, width: int, font: Font, most: int | None = None) -> list[str]:
    """The lines of a caption, broken at spaces to fit `width` pixels; [""] of an empty one.

    most: so many lines at most; what is left out ends in dots.
    """
    lines: list[str] = []
    for paragraph in caption.splitlines() or [""]:
        lines.append("")
        for word in short_words(paragraph, width, font):
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and font.getlength(longer) > width:
                lines.append(word)
            else:
                lines[-1] = longer
    if most is not None and len(lines) > most:
        lines[most - 1 :] = [_shortened(lines[most - 1], width, font)]
    return lines


def _shortened(line: str, width: int, font: Font) -> str:
    while line and font.getlength(line + ELLIPSIS) > width:
        line = line[:-1]
    return line + ELLIPSIS


def short_words(paragraph: str, width: int, font: Font) -> Iterator[str]:
    """Words, those that are wider than the tile (a path) in pieces that are not."""
    for word in paragraph.split():
        while font.getlength(word) > width and len(word) > 1:
            end = 1
            while end + 1 < len(word) and font.getlength(word[: end + 1]) <= width:
                end += 1
            yield word[:end]
            word = word[end:]
        yield word
