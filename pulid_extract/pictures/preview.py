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
BLEND = 0.6  # of the colour, over the grey crop, so that one sees what was labelled
HEIGHT, LEAST_HEIGHT, ALL_HEIGHTS = (
    384,
    96,
    9600,
)  # pixels of a row's pictures, of one and of all: viewers give up on taller sheets
NAMED = 0.005  # share of the crop from which a label is named in the caption


@dataclass(frozen=True)
class Shown:
    """One portrait's row. photo, crop, grey_face: uint8 RGB. labels: (512, 512), None without a
    parser. mark: the chosen face.
    """

    caption: str
    photo: np.ndarray
    mark: Mark
    crop: np.ndarray
    labels: np.ndarray | None
    grey_face: np.ndarray


def preview_sheet(shown: Sequence[Shown]) -> np.ndarray:
    """uint8 RGB: one row for each portrait; rows are lower where there are many."""
    return sheet(
        [_row(one) for one in shown], max(LEAST_HEIGHT, min(HEIGHT, ALL_HEIGHTS // len(shown)))
    )


def _row(one: Shown) -> list[tuple[str, np.ndarray]]:
    parsed = (
        []
        if one.labels is None
        else [(f"parse map: {named_labels(one.labels)}", colour_labels(one.labels, one.crop))]
    )
    return [
        (one.caption, draw_faces(one.photo, [one.mark])),
        ("aligned crop", one.crop),
        *parsed,
        ("what EVA-CLIP sees", one.grey_face),
    ]


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
    return ", ".join(f"{name} {share:.0%}" for name, share in ranked if share >= NAMED)
