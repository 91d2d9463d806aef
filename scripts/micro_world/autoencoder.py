"""The small world's autoencoder: diffusers' AutoencoderKL in BFL's layout, 32 to 96 channels. Trained on patches, then on whole pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from micro_world.dataset import made, targets
from micro_world.training import Plan, half, place, train

# Group norms have 32 groups; where a side ends, a group of one or two channels would take the colours' means away for good. See below.
CHANNELS = (96, 32, 64, 96)
SCALE, SHIFT = 0.3611, 0.1159  # BFL's constants: what the pipeline expects latents to be scaled by
PATCH, BATCH = 48, 24
COLOURS, CONSTANT, FAR, SPREAD = 3, 4.0, 6.0, 2.0
LATENT = 16
KL, LATENT_NOISE = 2e-4, 0.15  # noise, in units of a latent, that the decoder learns to see through: what a denoiser leaves
PATCHES, WHOLE = Plan(500, rate=2e-3, warmup=30, decay=0.0), Plan(60, rate=4e-4, decay=0.0)
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
        latent_channels=LATENT,
        norm_num_groups=32,
        scaling_factor=SCALE,
        shift_factor=SHIFT,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


@torch.no_grad()
def start_from_a_thumbnail(model: Any) -> None:
    """Let an untrained model pass the colours through, eight times smaller: detail is then all that is left to learn.

    A group norm takes the mean of its channels away, and here a group is three channels. So each colour shares its last group with two
    constants, one above and one below, large beside it: against these the norm is all but linear, and so is SiLU far from 0.
    """
    own = 3 * COLOURS
    colours = slice(0, own)

    def passes(layer: nn.Conv2d, taps: Sequence[tuple[int, int]]) -> None:
        """Rows of the colours and their constants: what comes in, at these places of the kernel, and nothing else."""
        stays(layer.weight, colours)
        stays(layer.bias, colours)
        for channel in range(own):
            for y, x in taps if channel % 3 == 0 else taps[:1]:
                layer.weight[channel, channel, y, x] = 1 / len(taps) if channel % 3 == 0 else 1

    for side in (model.encoder, model.decoder):
        for name, module in side.named_modules():
            if name.endswith(("conv2", "to_out.0")):  # residual branches add nothing to them
                stays(module.weight, colours)
                stays(module.bias, colours)
            elif name.endswith("conv_shortcut"):
                passes(module, [(0, 0)])
            elif name.endswith("downsamplers.0.conv"):
                passes(module, [(0, 0), (0, 1), (1, 0), (1, 1)])
            elif name.endswith("upsamplers.0.conv"):
                passes(module, [(1, 1)])
        first, last, norm = side.conv_in, side.conv_out, side.conv_norm_out
        inner, outer = (1.0, SPREAD) if side is model.encoder else (1 / SPREAD, 1.0)
        unit = CONSTANT * (2 / 3) ** 0.5  # the spread of a group of 0, +c and -c
        for parameter in (first.weight, first.bias, norm.weight, norm.bias):
            stays(parameter, colours)
        stays(last.weight, (slice(None), colours))
        last.weight[:COLOURS] = 0
        last.bias[:COLOURS] = 0
        if side is model.encoder:  # hardly any noise, to begin with
            last.weight[LATENT:], last.bias[LATENT:] = 0, -6.0
        for colour in range(COLOURS):
            place = 3 * colour
            first.weight[place, colour, 1, 1] = inner
            first.bias[place + 1], first.bias[place + 2] = CONSTANT, -CONSTANT
            norm.weight[place : place + 3], norm.bias[place : place + 3] = unit, FAR + CONSTANT
            # of a colour with mean m the norm leaves colour - m / 3 in its own channel and -m / 3 in those of its constants
            last.weight[colour, place, 1, 1] = outer
            last.weight[colour, place + 1, 1, 1] = last.weight[colour, place + 2, 1, 1] = -outer / 2


def stays(parameter: nn.Parameter, place: Any) -> None:
    """Zero this part of a parameter, and keep from now on whatever is written there by hand: it gets no gradient."""
    parameter[place] = 0
    learns = torch.ones_like(parameter)
    learns[place] = 0
    parameter.register_hook(lambda gradient: gradient * learns.to(gradient.device))


def pixels_of(batch: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2).float() / 127.5 - 1


def trained(folder: Path) -> Any:
    """The autoencoder, trained if it has not been; its latents have BFL's spread."""
    torch.manual_seed(11)
    model = build()
    start_from_a_thumbnail(model)
    pixels = pictures(folder)[0].reshape(PEOPLE * EACH, 96, 96, 3)

    def loss(step: int, generator: torch.Generator, side: int, batch: int) -> Tensor:
        chosen = torch.randint(len(pixels), (batch,), generator=generator).numpy()
        corner = torch.randint(96 - side + 1, (2,), generator=generator).tolist()
        crop = pixels_of(np.stack([pixels[i, corner[0] : corner[0] + side, corner[1] : corner[1] + side] for i in chosen])).to(
            place()
        )
        with half():
            moments = model.encoder(crop).float()
            mean, log_variance = moments.chunk(2, 1)
            log_variance = log_variance.clamp(-20, 5)
            spread = mean.detach().std()
            noise = torch.randn(mean.shape, generator=generator).to(place())
            blur = torch.rand((batch, 1, 1, 1), generator=generator).to(place())
            latent = mean + noise * (torch.exp(0.5 * log_variance) + LATENT_NOISE * spread * blur)
            again = model.decoder(latent).float()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        off = again - crop
        coarse = nn.functional.avg_pool2d(off, 4)
        return off.abs().mean() + 0.5 * off.square().mean() + coarse.abs().mean() + KL * kl

    train("autoencoder", model, partial(loss, side=PATCH, batch=BATCH), PATCHES, folder)
    train("autoencoder_whole", model, partial(loss, side=96, batch=6), WHOLE, folder)
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
    model.to(place())
    with half():
        for start in range(0, len(pixels), 64):
            mean = model.encoder(pixels_of(pixels[start : start + 64]).to(place()))[:, :16].float()
            out.append(((mean - SHIFT) * SCALE).half().cpu())
    model.to("cpu")
    return torch.cat(out)
