"""Pictures as bytes of a file: every format, with its options."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

# Three colours that tell every flip and turn apart: red top left, green top right, blue bottom
# left, grey elsewhere.
PICTURE = np.full((48, 32, 3), 100, np.uint8)
PICTURE[:16, :16], PICTURE[:16, 16:], PICTURE[32:, :16] = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encode(image: Image.Image | np.ndarray, format_: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(
        buffer, format_, **options
    )
    return buffer.getvalue()


def gradient(height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 (height, width, 3): every pixel differs from its neighbours."""
    y, x = np.mgrid[:height, :width]
    return np.stack(
        [x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) % 256], axis=2
    ).astype(np.uint8)
