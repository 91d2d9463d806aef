"""Three portraits, and vectors that are as alike as angles say."""

from __future__ import annotations

import numpy as np
from support.pictures.coloured_faces import GREEN, RED, picture

ONE, TWO = picture((5, 5, RED)), picture((6, 6, RED), (16, 16, GREEN), seed="other")
THREE = picture((8, 8, RED))


def vectors(*angles: float) -> list[np.ndarray]:
    """Vectors of growing length in a plane, at these degrees: the cosine of two is that of their
    difference.
    """
    return [
        np.float32([np.cos(np.radians(angle)), np.sin(np.radians(angle)), *[0] * 510]) * (place + 1)
        for place, angle in enumerate(angles)
    ]
