"""Previews: sd-cli's linear map, and the last one is the latent that is decoded."""

from __future__ import annotations

import numpy as np
import torch

from pulid_generate.pictures.previews import BIAS, PROJECTION, preview_pixels
from pulid_generate.sampling.denoise import denoise


def test_the_map_is_linear_and_clipped():
    latent = np.zeros((16, 2, 3), np.float32)
    grey = ((BIAS / 2 + 0.5) * 255).astype(np.uint8)
    assert (preview_pixels(latent) == grey).all()
    latent[4, 1, 2] = 1
    pixels = preview_pixels(latent)
    assert (pixels[1, 2] == (((PROJECTION[4] + BIAS) / 2 + 0.5) * 255).astype(np.uint8)).all()
    assert (pixels[0] == grey).all()
    latent[:, 0, 0] = 1e6 * PROJECTION[:, 0]
    latent[0, 0, 1] = np.nan
    pixels = preview_pixels(latent)
    assert pixels[0, 0, 0] == 255
    assert (pixels[0, 1] == 0).all()


def test_what_is_shown_is_what_the_last_step_comes_to():
    """A flow straight from noise to a target: the first preview is the target already."""
    target = torch.randn(1, 4, 64)
    start = torch.randn(1, 4, 64)
    shown: list[torch.Tensor] = []

    def predict(latent, t, *, step, branch):
        return start - target

    times = [1.0, 0.6, 0.3, 0.0]
    done = denoise(predict, start, times, on_denoised=shown.append)
    assert len(shown) == 3
    for latent in (*shown, done):
        torch.testing.assert_close(latent, target)
    assert torch.equal(denoise(predict, start, times), done)
