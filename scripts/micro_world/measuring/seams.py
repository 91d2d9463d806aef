"""Whether the edge of a pasted face can be seen: steps between neighbouring pixels across lines
around it.
"""

from __future__ import annotations

import numpy as np

# left, top, right, bottom
Edges = tuple[int, int, int, int]


def step_across(pixels: np.ndarray, edges: Edges, outside: int) -> float:
    """The mean step between neighbours, of 255, across the line `outside` pixels beyond the edges
    of a box in uint8 RGB (H, W, 3), along the box's four sides; lines that the picture does not
    have are left out.
    """
    left, top, right, bottom = edges
    values = pixels.astype(float)
    height, width = values.shape[:2]
    rows, columns = slice(top, bottom), slice(left, right)
    lines = []
    for place in (left - outside, right + outside):
        if 0 < place < width:
            lines.append(values[rows, place] - values[rows, place - 1])
    for place in (top - outside, bottom + outside):
        if 0 < place < height:
            lines.append(values[place, columns] - values[place - 1, columns])
    return float(np.abs(np.concatenate(lines)).mean()) if lines else 0.0
