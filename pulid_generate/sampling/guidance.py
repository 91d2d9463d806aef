"""What is made of a model's branches before a sampler sees it: true CFG, skip-layer guidance,
inpainting.

Knows nothing of models: a branch is a velocity. All three are linear in the velocity, so they are
the same on velocities as on the clean pictures that sd-cli applies them to.

Sources: ToTheBeginning/PuLID 1aa2fc7 flux/sampling.py (true CFG); leejet/stable-diffusion.cpp
src/runtime/guidance.cpp (`SkipLayerGuidance`) and src/pipeline/image.cpp, diffusion_engine.cpp (the
mask); Levin and Fried, Differential Diffusion, arXiv 2306.00950 (grey that is redrawn late).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pulid_generate.files.layouts import LATENT_CHANNELS, LATENT_SCALE
from pulid_generate.sampling.packing import pack

Branch = Literal["positive", "negative", "skip"]


@dataclass(frozen=True)
class Guidance:
    """Which branches a step needs, and how they are mixed. Steps count from 0; a method of two
    evaluations guides both.
    """

    # v = v_neg + cfg_scale * (v_pos - v_neg) from step cfg_start_step on; at 1 the negative branch
    # is never evaluated
    cfg_scale: float = 1.0
    cfg_start_step: int = 0
    # v += slg_scale * (v_pos - v_skip) in the steps slg_steps, with or without true CFG; elsewhere
    # the skip branch is never evaluated
    slg_scale: float = 0.0
    slg_steps: Collection[int] = ()

    def has_negative(self, step: int) -> bool:
        """Whether this step evaluates the negative branch."""
        return self.cfg_scale != 1.0 and step >= self.cfg_start_step

    def has_skip(self, step: int) -> bool:
        """Whether this step evaluates the skip branch."""
        return self.slg_scale != 0.0 and step in self.slg_steps


@dataclass(frozen=True)
class Inpaint:
    """What stays of a picture while the rest is redrawn."""

    # (1, L, 64) packed, float32 in [0, 1]: 1 is redrawn, 0 stays, between is mixed
    mask: Tensor
    # the picture's packed latents, (1, L, 64)
    image: Tensor
    # The time of the first step, for which grey is not mixed but redrawn late: from the moment on
    # at which its share of that time is left
    first: float | None = None

    def hold(self, velocity: Tensor, latent: Tensor, t: float) -> Tensor:
        """The velocity that leads to `image` where the mask is 0, all (1, L, 64).

        There the clean picture that a velocity stands for, latent - t * velocity, is the image
        itself: the known part moves from the start's noise to the image on a straight line, under
        every sampler.
        """
        mask = self.mask
        if self.first is not None:
            mask = (mask >= t / self.first).to(mask.dtype)
        return mask * velocity + (1 - mask) * (latent - self.image) / t


def latent_mask(mask: np.ndarray) -> Tensor:
    """uint8 (H, W), white is redrawn -> packed (1, L, 64) float32 in [0, 1].

    A latent cell takes the largest of its 8x8 pixels, as in sd-cli: what is white is redrawn whole.
    Grey edges stay grey, where sd-cli rounds them to black or white.
    """
    return _packed(torch.nn.functional.max_pool2d(_pixels(mask), LATENT_SCALE))


def late_mask(mask: np.ndarray) -> Tensor:
    """As `latent_mask`, for grey that is redrawn late: a latent cell takes the mean of its pixels,
    and the lightest cell is redrawn from the first step on.
    """
    cells = torch.nn.functional.avg_pool2d(_pixels(mask), LATENT_SCALE)
    return _packed(cells / cells.max().clamp(min=1 / 255))


def _pixels(mask: np.ndarray) -> Tensor:
    """(1, 1, H, W) float32 in [0, 1]."""
    return torch.from_numpy(mask.astype(np.float32) / 255)[None, None]


def _packed(cells: Tensor) -> Tensor:
    """(1, 1, H/8, W/8) -> (1, L, 64)."""
    return pack(cells.expand(-1, LATENT_CHANNELS, -1, -1))
