"""Latents -> uint8 pictures. Knows nothing of where latents come from or where pictures go.

Source: black-forest-labs/flux src/flux/modules/autoencoder.py (scale and shift); the rounding is sd-cli's, whose pictures are goldens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pulid_generate.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np

TILE_LATENTS, TILE_OVERLAP = 32, 0.5  # sd-cli's defaults: --vae-tile-size 32x32, --vae-tile-overlap 0.5


def decode(vae: Any, latents: Tensor, *, tiling: bool = False) -> np.ndarray:
    """vae: a diffusers AutoencoderKL. latents (1, 16, H/8, W/8), as the denoise loop leaves them -> (H, W, 3) uint8 RGB.

    tiling: decode overlapping tiles of 256 pixels, blended: a fraction of the memory, and slightly other pixels.
    Raises CheckpointError if the picture is not finite.
    """
    if tiling:
        vae.enable_tiling()
        vae.tile_latent_min_size = TILE_LATENTS
        vae.tile_sample_min_size = TILE_LATENTS * 2 ** (len(vae.config.block_out_channels) - 1)
        vae.tile_overlap_factor = TILE_OVERLAP
    else:
        vae.disable_tiling()
    scaled = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
    with torch.inference_mode():
        image = vae.decode(scaled, return_dict=False)[0][0].float()
    if not torch.isfinite(image).all():
        raise CheckpointError(
            "the autoencoder gave NaN or infinite pixels; a damaged file, or float16 where --dtype bfloat16 is needed"
        )
    return ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
