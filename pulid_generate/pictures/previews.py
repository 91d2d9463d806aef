"""Small previews of a picture in work: a linear map from latents to colours, a pixel for each
latent cell. Knows no model.

Source: leejet/stable-diffusion.cpp 97d29908, src/latent-preview.h (Flux's projection and bias),
src/stable-diffusion.cpp (rgb = clip((z W + b) / 2 + 0.5)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pulid_generate.pictures.picture import encode_pixels

if TYPE_CHECKING:
    from torch import Tensor

# channel of the latent -> red, green, blue
PROJECTION = np.array(
    [
        (-0.041168, 0.019917, 0.097253),
        (0.028096, 0.026730, 0.129576),
        (0.065618, -0.067950, -0.014651),
        (-0.012998, -0.014762, 0.081251),
        (0.078567, 0.059296, -0.024687),
        (-0.015987, -0.003697, 0.005012),
        (0.033605, 0.138999, 0.068517),
        (-0.024450, -0.063567, -0.030101),
        (-0.040194, -0.016710, 0.127185),
        (0.112681, 0.088764, -0.041940),
        (-0.023498, 0.093664, 0.025543),
        (0.082899, 0.048320, 0.007491),
        (0.075712, 0.074139, 0.081965),
        (-0.143501, 0.018263, -0.136138),
        (-0.025767, -0.082035, -0.040023),
        (-0.111849, -0.055589, -0.032361),
    ],
    np.float32,
)
BIAS = np.array((0.0246, -0.006937, -0.008089), np.float32)


def preview_pixels(latent: np.ndarray) -> np.ndarray:
    """(H/8, W/8, 3) uint8 RGB of a latent (16, H/8, W/8) float32, as Flux sees it."""
    colours = np.einsum("chw,cr->hwr", latent, PROJECTION) + BIAS
    shares = np.nan_to_num(np.clip(colours / 2 + 0.5, 0, 1))
    # the part behind the point is cut off there
    return (shares * np.float32(255)).astype(np.uint8)


def preview_png(latent: Tensor) -> bytes:
    """PNG of the first of some latents (B, 16, H/8, W/8)."""
    return encode_pixels(preview_pixels(latent[0].float().cpu().numpy()), "PNG", None)
