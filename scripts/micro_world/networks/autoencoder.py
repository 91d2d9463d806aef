"""The small world's autoencoder: diffusers' AutoencoderKL in BFL's layout, 64 and 96 channels.

The encoder is a principal component analysis of patches of 8x8 pixels, written into the layers'
weights: 16 numbers a patch, exact and there at once. The decoder starts by painting each patch in
its mean colour and learns the detail, through a little noise, since that is what a denoiser leaves.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from micro_world.dataset import is_current, made, targets
from micro_world.training.loop import Plan, at_once, half, place, train

# Group norms have 32 groups. Where a side ends a group needs three channels: of one or two it would
# take the colours' means away for good.
CHANNELS = (96, 64, 64, 96)
SCALE, SHIFT = 0.3611, 0.1159  # BFL's constants: what the pipeline expects latents to be scaled by
PATCH, LATENT, COLOURS = 8, 16, 3
CELLS = 6  # image tokens on a side, each of 2x2 latents
HIGH, FAR = 40.0, 8.0  # constants beside a number in its group, and where SiLU is as good as linear
EQUALISED = 0.5  # of the components' spreads: 0 leaves them as they are, 1 makes all of them equal
SIDE, BATCH, NOISE = 48, 24, 0.25  # pixels of a crop; in units of a latent's spread
PLAN = Plan(3000, rate=1.5e-3, warmup=100, decay=0.0, on_cpu=1500)
PEOPLE, EACH = 16000, 5


def pictures(folder: Path) -> list[np.ndarray]:
    """pixels (P, K, 96, 96, 3) uint8, prompts (P, K), choices (P, K, 7): what the autoencoder and
    Flux learn from.
    """
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


def pixels_of(batch: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.array(batch)).permute(0, 3, 1, 2).float() / 127.5 - 1


# --------------------------------------------------------------------------------------- components


def components(pixels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Of the patches of some pictures (N, 96, 96, 3): mean (3, 8, 8), directions (16, 3, 8, 8)
    whose products are latents with unit spread.

    The middle of a picture counts four times: faces are there.
    """
    sample = pixels_of(pixels)
    middle = sample[:, :, 16:80, 16:80]
    patches = torch.cat([_patches(sample), *[_patches(middle)] * 3])
    mean = patches.mean(0)
    centred = (patches - mean).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    values, vectors = values.flip(0)[:LATENT], vectors.flip(1)[:, :LATENT]
    spread = values.sqrt()
    wanted = spread ** (1 - EQUALISED)
    wanted = wanted / wanted.square().mean().sqrt()
    vectors = vectors * vectors.sum(0).sign()  # an eigenvector has no sign of its own
    directions = (vectors * wanted / spread).T.float()
    return mean.view(COLOURS, PATCH, PATCH), directions.view(LATENT, COLOURS, PATCH, PATCH)


def _patches(pictures: Tensor) -> Tensor:
    """(N, 3, H, W) -> (patches, 192)."""
    return (
        nn.functional.unfold(pictures, PATCH, stride=PATCH)
        .transpose(1, 2)
        .reshape(-1, COLOURS * PATCH * PATCH)
    )


@torch.no_grad()
def write_encoder(encoder: Any, mean: Tensor, directions: Tensor) -> None:
    """Make an encoder of the analysis. Its residual branches are silent: what is left are
    convolutions, one norm and one SiLU.

    Each downsampling turns a square of four pixels into channels; the last one is the analysis. The
    norm at the end would take means and spreads away, so each latent shares its group with two
    constants, one far above and one far below; beside them it hardly counts.
    """
    for parameter in encoder.parameters():
        parameter.zero_()
    first, last, norm, blocks = (
        encoder.conv_in,
        encoder.conv_out,
        encoder.conv_norm_out,
        encoder.down_blocks,
    )
    # the channel that is 1 everywhere; it moves as the channels before it grow in number
    one = COLOURS
    for colour in range(COLOURS):
        first.weight[colour, colour, 1, 1] = 1
    first.bias[one] = 1
    for level in (0, 1):
        conv = blocks[level].downsamplers[0].conv
        for y in (0, 1):
            for x in (0, 1):
                for channel in range(one):
                    conv.weight[(2 * y + x) * one + channel, channel, y, x] = 1
        conv.weight[4 * one, one, 0, 0] = 1
        one *= 4
        shortcut = getattr(blocks[level + 1].resnets[0], "conv_shortcut", None)
        if shortcut is not None:
            for channel in range(one + 1):
                shortcut.weight[channel, channel] = 1
    conv = blocks[2].downsamplers[0].conv
    for channel in range(one):
        # place within two pixels and colour; place of these two within four
        inner, outer = divmod(channel, 4 * COLOURS)[::-1]
        half_place, colour = divmod(inner, COLOURS)
        row, column = 2 * (outer // 2) + half_place // 2, 2 * (outer % 2) + half_place % 2
        for y in (0, 1):
            for x in (0, 1):
                conv.weight[:LATENT, channel, y, x] = (
                    directions[:, colour, 4 * y + row, 4 * x + column] / SCALE
                )
    conv.weight[:LATENT, one, 0, 0] = SHIFT - (directions * mean).sum((1, 2, 3)) / SCALE
    conv.weight[LATENT, one, 0, 0] = 1
    spread = blocks[3].resnets[0].conv_shortcut
    norm.weight.fill_(((2 * HIGH**2 + SCALE**-2) / 3) ** 0.5)
    norm.bias.fill_(FAR + HIGH)
    for latent in range(LATENT):
        own, above, below = 3 * latent, 3 * latent + 1, 3 * latent + 2
        spread.weight[own, latent], spread.weight[above, LATENT], spread.weight[below, LATENT] = (
            1,
            HIGH,
            -HIGH,
        )
        last.weight[latent, own, 1, 1] = 1
        last.weight[latent, above, 1, 1] = last.weight[latent, below, 1, 1] = -0.5
    last.bias[LATENT:] = -30.0  # log-variance: the latent is certain


@torch.no_grad()
def start_decoder(decoder: Any, mean: Tensor, directions: Tensor) -> None:
    """Let an untrained decoder paint each patch in its mean colour; these channels stay as they
    are, the others learn.

    Here too each colour has two constants beside it in its last group.
    """
    own = 3 * COLOURS
    for name, module in decoder.named_modules():
        if name.endswith(("conv2", "to_out.0")):  # residual branches add nothing to them
            stays(module.weight, slice(0, own))
            stays(module.bias, slice(0, own))
        elif name.endswith(("conv_shortcut", "upsamplers.0.conv")):
            stays(module.weight, slice(0, own))
            stays(module.bias, slice(0, own))
            middle = module.kernel_size[0] // 2
            for channel in range(own):
                module.weight[channel, channel, middle, middle] = 1
    first, last, norm = decoder.conv_in, decoder.conv_out, decoder.conv_norm_out
    for parameter in (first.weight, first.bias, norm.weight, norm.bias):
        stays(parameter, slice(0, own))
    stays(last.weight, (slice(None), slice(0, own)))
    last.weight.zero_()  # the others begin by saying nothing
    flat = directions.flatten(1)
    # (192, 16): latents to pixels, as far as 16 numbers tell
    back = torch.linalg.pinv(flat.double()).float()
    colours = back.view(COLOURS, -1, LATENT).mean(1)
    constant = 4.0
    norm.weight[:own], norm.bias[:own] = constant * (2 / 3) ** 0.5, FAR + constant
    last.bias.zero_()
    for colour in range(COLOURS):
        channel = 3 * colour
        first.weight[channel, :, 1, 1] = colours[colour] * SCALE
        first.bias[channel] = mean[colour].mean() - (colours[colour] * SCALE * SHIFT).sum()
        first.bias[channel + 1], first.bias[channel + 2] = constant, -constant
        last.weight[colour, channel, 1, 1] = 1
        last.weight[colour, channel + 1, 1, 1] = last.weight[colour, channel + 2, 1, 1] = -0.5


def stays(parameter: nn.Parameter, where: Any) -> None:
    """Zero this part of a parameter, and keep from now on whatever is written there by hand: it
    gets no gradient.
    """
    parameter[where] = 0
    learns = torch.ones_like(parameter)
    learns[where] = 0
    parameter.register_hook(lambda gradient: gradient * learns.to(gradient.device))


# ----------------------------------------------------------------------------------------- training


def fitted(folder: Path) -> tuple[Tensor, Tensor]:
    """The components of the first pictures, kept."""
    kept = folder / "components.pt"
    pixels = pictures(folder)[0]
    if not is_current(kept, "targets"):
        torch.save(components(pixels[:600].reshape(-1, 96, 96, 3)), kept)
    return torch.load(kept, weights_only=True)


def encode(pictures: Tensor, mean: Tensor, directions: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 16, H / 8, W / 8) as Flux sees them: what the encoder computes, in one
    product.
    """
    found = (_patches(pictures) - mean.flatten()) @ directions.flatten(1).T
    height, width = (side // PATCH for side in pictures.shape[2:])
    return found.view(-1, height, width, LATENT).permute(0, 3, 1, 2)


def analysed(folder: Path) -> Any:
    """The autoencoder with its encoder, and a decoder that knows mean colours only."""
    torch.manual_seed(11)
    model = build()
    fit = fitted(folder)
    write_encoder(model.encoder, *fit)
    start_decoder(model.decoder, *fit)
    model.encoder.requires_grad_(False)
    return model


def trained(folder: Path) -> Any:
    model, fit = analysed(folder), fitted(folder)
    pixels = pictures(folder)[0].reshape(PEOPLE * EACH, 96, 96, 3)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(pixels), (at_once(BATCH),), generator=generator).numpy()
        y, x = (
            PATCH * int(corner)
            for corner in torch.randint((96 - SIDE) // PATCH + 1, (2,), generator=generator)
        )
        crop = pixels_of(np.stack([pixels[i, y : y + SIDE, x : x + SIDE] for i in chosen]))
        latent = encode(crop, *fit)
        noise = torch.randn(latent.shape, generator=generator) * torch.rand(
            (len(chosen), 1, 1, 1), generator=generator
        )
        with half():
            again = model.decoder(((latent + NOISE * noise) / SCALE + SHIFT).to(place())).float()
        off = again - crop.to(place())
        return off.abs().mean() + 0.5 * off.square().mean()

    train("autoencoder", model, loss, PLAN, folder, cycle=0)
    return model.eval().requires_grad_(False)


def latents_of(folder: Path) -> Tensor:
    """(P * K, 16, 12, 12) float16: the training pictures, as Flux sees them."""
    fit, pixels = fitted(folder), pictures(folder)[0].reshape(PEOPLE * EACH, 96, 96, 3)
    return torch.cat(
        [
            encode(pixels_of(pixels[start : start + 200]), *fit).half()
            for start in range(0, len(pixels), 200)
        ]
    )
