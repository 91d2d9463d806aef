"""The small world's autoencoder: diffusers' AutoencoderKL in BFL's layout, 32 and 64 channels. Trained on patches, then on whole pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from micro_world.dataset import made, targets
from micro_world.training import Plan, train

# The norm before the last layer has 32 groups: with 32 channels it would take each channel's mean away, and the colours with it.
CHANNELS = (64, 32, 64, 64)
SCALE, SHIFT = 0.3611, 0.1159  # BFL's constants: what the pipeline expects latents to be scaled by
PATCH, BATCH = 48, 32
KL, LATENT_NOISE = 2e-4, 0.15  # noise, in units of a latent, that the decoder learns to see through: what a denoiser leaves
PATCHES, WHOLE = Plan(800, rate=2.5e-3, warmup=60, decay=0.0), Plan(120, rate=4e-4, decay=0.0)
PEOPLE, EACH = 16000, 5


def pictures(folder: Path) -> list[np.ndarray]:
    """pixels (P, K, 96, 96, 3) uint8, prompts (P, K), choices (P, K, 7): what the autoencoder and Flux learn from."""
    return made(folder, "targets", PEOPLE, partial(targets, count=EACH))


def build() -> Any:
    from diffusers import AutoencoderKL

    levels = len(CHANNELS)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=32,
        scaling_factor=SCALE,
        shift_factor=SHIFT,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def pixels_of(batch: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2).float() / 127.5 - 1


def trained(folder: Path) -> Any:
    """The autoencoder, trained if it has not been; its latents have BFL's spread."""
    torch.manual_seed(11)
    model = build()
    pixels = pictures(folder)[0].reshape(PEOPLE * EACH, 96, 96, 3)

    def loss(step: int, generator: torch.Generator, side: int, batch: int) -> Tensor:
        chosen = torch.randint(len(pixels), (batch,), generator=generator).numpy()
        corner = torch.randint(96 - side + 1, (2,), generator=generator).tolist()
        crop = pixels_of(np.stack([pixels[i, corner[0] : corner[0] + side, corner[1] : corner[1] + side] for i in chosen]))
        with torch.autocast("cpu", torch.bfloat16):
            moments = model.encoder(crop).float()
            mean, log_variance = moments.chunk(2, 1)
            log_variance = log_variance.clamp(-20, 5)
            spread = mean.detach().std()
            noise = torch.randn(mean.shape, generator=generator)
            latent = mean + noise * (
                torch.exp(0.5 * log_variance) + LATENT_NOISE * spread * torch.rand((batch, 1, 1, 1), generator=generator)
            )
            again = model.decoder(latent).float()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        off = again - crop
        coarse = nn.functional.avg_pool2d(off, 4)
        return off.abs().mean() + 0.5 * off.square().mean() + coarse.abs().mean() + KL * kl

    train("autoencoder", model, partial(loss, side=PATCH, batch=BATCH), PATCHES, folder)
    train("autoencoder_whole", model, partial(loss, side=96, batch=8), WHOLE, folder)
    _spread(model, pixels)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def _spread(model: Any, pixels: np.ndarray) -> None:
    """Scale the latents' channels to the spread that BFL's constants undo, in the encoder's last and the decoder's first layer."""
    mean = torch.cat([model.encoder(pixels_of(pixels[i : i + 50]))[:, :16] for i in range(0, 1000, 50)])
    factor = 1 / SCALE / mean.std((0, 2, 3))
    last, first = model.encoder.conv_out, model.decoder.conv_in
    last.weight[:16] *= factor[:, None, None, None]
    last.bias[:16] *= factor
    last.bias[16:] += 2 * factor.log()
    first.weight /= factor[None, :, None, None]


@torch.no_grad()
def latents_of(model: Any, pixels: np.ndarray) -> Tensor:
    """(N, 96, 96, 3) uint8 -> (N, 16, 12, 12) float16, scaled as Flux sees them. The mean, no sample."""
    out = []
    with torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(pixels), 64):
            mean = model.encoder(pixels_of(pixels[start : start + 64]))[:, :16].float()
            out.append(((mean - SHIFT) * SCALE).half())
    return torch.cat(out)
