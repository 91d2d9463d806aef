"""The one real face of the micro models: NASA's photograph of Eileen Collins,
`skimage.data.astronaut()`, and where it is.

The landmarks were placed by eye. scikit-image's own LBP cascade boxes the face at x 175, y 70,
93x93. Pixel coordinates are x right, y down, in the 512x512 picture.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

FACE_BOX = (176.0, 72.0, 269.0, 170.0)  # x1, y1, x2, y2: fringe to chin
# eyes, nose tip, mouth corners
LANDMARKS = ((203.4, 101.5), (247.1, 103.2), (224.4, 126.8), (203.4, 140.2), (243.6, 141.7))


def portrait() -> np.ndarray:
    """(512, 512, 3) uint8 RGB."""
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[..., :3])


def without_face() -> list[np.ndarray]:
    """Pictures with no face to find, uint8 RGB: what the fitted detectors must stay silent on. All
    ship with scikit-image.
    """
    from skimage import data

    return [
        np.ascontiguousarray(picture[..., :3])
        for picture in (data.coffee(), data.chelsea(), data.rocket())
    ]


def sample(image: np.ndarray, centre: tuple[float, float], side: float, pixels: int) -> np.ndarray:
    """(pixels, pixels, 3) float32 RGB in 0..255: the square of `side` around `centre`,
    box-filtered; the rim is repeated outside.
    """
    margin = int(side) + 1
    padded = Image.fromarray(
        np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    )
    x, y = (value - side / 2 + margin for value in centre)
    square = padded.resize((pixels, pixels), Image.Resampling.BOX, box=(x, y, x + side, y + side))
    return np.asarray(square, np.float32)
