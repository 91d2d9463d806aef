"""Pictures that the networks of `portrait_models` find faces in.

A "face" is a coloured patch of 26 pixels on noise. Red is a large face, green a small one, both
seen by both detectors; yellow is seen by insightface's alone, magenta by RetinaFace's alone.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from seeded.tensors import seeded

RED, GREEN, YELLOW, MAGENTA = (255, 0, 0), (0, 255, 0), (255, 255, 0), (255, 0, 255)
LARGE, SMALL = 96, 32  # half the side of a face, in pixels of a 640x640 picture
CELL = 32
# Eyes, nose, mouth corners around the face's centre, in fractions of its side.
POINTS = np.array([[-0.25, -0.2], [0.25, -0.2], [0.0, 0.05], [-0.2, 0.3], [0.2, 0.3]], np.float32)
# A large face top left, small ones right and bottom.
A, B, C = (5, 5, RED), (15, 6, GREEN), (8, 16, GREEN)
GROUP, ALONE, OTHER = ((2, 2, RED), (15, 6, GREEN)), ((9, 10, RED),), ((12, 5, GREEN),)


def picture(*patches: tuple[int, int, tuple[int, int, int]], seed: str = "noise") -> np.ndarray:
    """uint8 RGB (640, 640, 3): grey noise, with a patch of 26 pixels in each named cell (column,
    row, colour).
    """
    noise = np.clip(seeded(seed, (40, 40), 40, 128), 30, 225).repeat(16, 0).repeat(16, 1)
    image = np.repeat(noise[..., None], 3, axis=2).astype(np.uint8)
    for column, row, colour in patches:
        image[row * CELL : row * CELL + 26, column * CELL : column * CELL + 26] = colour
    return image


def face_box(column: int, row: int, half: int) -> tuple[int, int, int, int]:
    """Where both detectors see the face of a cell: (x1, y1, x2, y2)."""
    x, y = column * CELL + CELL // 2, row * CELL + CELL // 2
    return x - half, y - half, x + half, y + half


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def save(path: Path, *patches) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(picture(*patches)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    return path
