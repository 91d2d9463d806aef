"""Times and places as sines and cosines: what Flux knows of a step, and of where a token is.

Knows no weights. Shapes: B pictures, N tokens, H heads of 128.

Source: black-forest-labs/flux src/flux/math.py and src/flux/modules/layers.py (timestep_embedding).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROPE_AXES = (16, 56, 56)  # rotary channels for index, row, column: flux src/flux/util.py, axes_dim
ROPE_BASE = 10_000
TIME_CHANNELS = 256  # sines and cosines of a timestep

# cosines and sines, (N, 128) each
Rope = tuple[Tensor, Tensor]


def sinusoids(times: Tensor) -> Tensor:
    """(B,) -> (B, 256) float32: cosines, then sines, of 128 frequencies from 1 down to 1/10,000."""
    half = TIME_CHANNELS // 2
    exponents = torch.arange(half, dtype=torch.float32, device=times.device)
    frequencies = torch.exp(-math.log(ROPE_BASE) * exponents / half)
    angles = times[:, None].float() * frequencies[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def rotary_table(ids: Tensor) -> Rope:
    """Cosines and sines (N, 128), float32, each number twice, of token positions (N, 3)."""
    precise = torch.float32 if ids.device.type in ("mps", "npu") else torch.float64
    cosines, sines = [], []
    for axis, channels in enumerate(ROPE_AXES):
        steps = torch.arange(0, channels, 2, dtype=precise, device=ids.device)
        frequencies = 1.0 / (ROPE_BASE ** (steps / channels))
        angles = torch.outer(ids[:, axis].float(), frequencies)
        cosines.append(angles.cos().repeat_interleave(2, dim=1).float())
        sines.append(angles.sin().repeat_interleave(2, dim=1).float())
    return torch.cat(cosines, dim=-1), torch.cat(sines, dim=-1)


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Pairs of channels of x (B, N, H, 128) turned by their token's angles."""
    cosines, sines = (table[None, :, None] for table in rope)
    real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-imaginary, real], dim=-1).flatten(3)
    return (x.float() * cosines + turned.float() * sines).to(x.dtype)
