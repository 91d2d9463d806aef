"""The sheet that shows how an identity came about: photograph, aligned crop, parse map in colours,
what EVA-CLIP sees.

Knows nothing of networks, files or command lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pulid_extract.pictures.drawing import Mark, draw_faces, sheet

# BiSeNet's labels of facexlib 0.3.0 (CelebAMask-HQ order) -> name and colour. Left and right share
# a colour.
LABELS = {
    0: ("background", (40, 40, 40)),
    1: ("skin", (240, 190, 160)),
    2: ("brows", (120, 70, 20)),
    3: ("brows", (120, 70, 20)),
    4: ("eyes", (60, 140, 255)),
    5: ("eyes", (60, 140, 255)),
    6: ("glasses", (255, 0, 255)),
    7: ("ears", (250, 140, 90)),
    8: ("ears", (250, 140, 90)),
    9: ("earring", (255, 230, 0)),
    10: ("nose", (255, 120, 120)),
    11: ("mouth", (130, 0, 30)),
    12: ("lips", (220, 40, 70)),
    13: ("lips", (220, 40, 70)),
    14: ("neck", (200, 150, 90)),
    15: ("necklace", (255, 255, 120)),
    16: ("cloth", (0, 150, 120)),
    17: ("hair", (90, 50, 140)),
    18: ("hat", (0, 200, 255)),
}
_COLOURS = np.array([colour for _, colour in LABELS.values()], np.uint8)
# of the colour, over the grey crop, so that one sees what was labelled
BLEND = 0.6
# pixels of a row's pictures, of one and of all: viewers give up on taller sheets
HEIGHT, LEAST_HEIGHT, ALL_HEIGHTS = 384, 96, 9600
# share of the crop from which a label is named in the caption
NAMED_SHARE = 0.005


@dataclass(frozen=True)
class PreviewRow:
    """One portrait. Pictures are uint8 RGB (H, W, 3)."""

    # may hold several lines
    caption: str
    photo: np.ndarray
    # the chosen face, in pixels of `photo`
    mark: Mark
    crop: np.ndarray
    # (512, 512) of 0..18, None without a parser
    labels: np.ndarray | None
    grey_face: np.ndarray


def preview_sheet(rows: Sequence[PreviewRow]) -> np.ndarray:
    """uint8 RGB (H, W, 3): one row for each portrait; rows are lower where there are many."""
    height = max(LEAST_HEIGHT, min(HEIGHT, ALL_HEIGHTS // len(rows)))
    return sheet([_tiles(row) for row in rows], height)


def _tiles(row: PreviewRow) -> list[tuple[str, np.ndarray]]:
    tiles = [(row.caption, draw_faces(row.photo, [row.mark])), ("aligned crop", row.crop)]
    if row.labels is not None:
        caption = f"parse map: {named_labels(row.labels)}"
        tiles.append((caption, colour_labels(row.labels, row.crop)))
    tiles.append(("what EVA-CLIP sees", row.grey_face))
    return tiles


def colour_labels(labels: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """uint8 RGB (H, W, 3): every label in its colour over the crop in grey. labels: (H, W) of
    0..18. crop: uint8 RGB (H, W, 3).
    """
    grey = crop.mean(axis=2, keepdims=True)
    return (BLEND * _COLOURS[labels] + (1 - BLEND) * grey).round().astype(np.uint8)


def named_labels(labels: np.ndarray) -> str:
    """The names of the labels that cover more than a trace, the largest first: "skin 45%, hair 30%,
    ...".
    """
    shares: dict[str, float] = {}
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        name = LABELS[int(label)][0]
        shares[name] = shares.get(name, 0.0) + count / labels.size
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {share:.0%}" for name, share in ranked if share >= NAMED_SHARE)
