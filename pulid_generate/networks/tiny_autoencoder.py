"""The tiny autoencoder of Flux's latents (taef1): convolutions and nothing else.

Parameters are named as in diffusers' AutoencoderTiny. Knows no file and no other scale of latents
than its own, which is Flux's.

Shapes: B pictures, h x w latent cells, 8h x 8w pixels.

Source: madebyollin/taesd taesd.py; diffusers 0.42.1 vae.py (EncoderTiny, DecoderTiny);
leejet/stable-diffusion.cpp 97d29908 src/model/vae/tae.hpp.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

COLOURS = 3
# residual blocks of each level, from the pixels and from the latents
ENCODER_BLOCKS, DECODER_BLOCKS = (1, 3, 3, 3), (3, 3, 3, 1)
# latents beyond it are squeezed together
LIMIT = 3.0


class TinyAutoencoder(nn.Module):
    """Both ways, or decoding alone."""

    def __init__(self, width: int, latent: int, encodes: bool = True):
        """width: channels of every map. latent: channels of a latent. encodes: whether there is an
        encoder.
        """
        super().__init__()
        self.encoder = TinyEncoder(width, latent) if encodes else None
        self.decoder = TinyDecoder(width, latent)

    def encode(self, pixels: Tensor) -> Tensor:
        """Latents (B, latent, h, w) of pixels (B, 3, 8h, 8w) in 0..1."""
        assert self.encoder is not None  # the fitting has seen to it
        return self.encoder.layers(pixels)

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, 8h, 8w), about 0..1, of latents (B, latent, h, w)."""
        return self.decoder.layers(torch.tanh(latents / LIMIT) * LIMIT)


class TinyEncoder(nn.Module):
    """From fine to coarse: each level but the first begins with half the size."""

    def __init__(self, width: int, latent: int):
        super().__init__()
        layers: list[nn.Module] = []
        for level, blocks in enumerate(ENCODER_BLOCKS):
            if level == 0:
                layers.append(nn.Conv2d(COLOURS, width, 3, padding=1))
            else:
                layers.append(nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False))
            layers += [TinyBlock(width) for _ in range(blocks)]
        layers.append(nn.Conv2d(width, latent, 3, padding=1))
        self.layers = nn.Sequential(*layers)


class TinyDecoder(nn.Module):
    """From coarse to fine: each level but the last ends with twice the size."""

    def __init__(self, width: int, latent: int):
        super().__init__()
        levels = []
        for blocks in DECODER_BLOCKS[:-1]:
            level: list[nn.Module] = [TinyBlock(width) for _ in range(blocks)]
            level.append(nn.Upsample(scale_factor=2, mode="nearest"))
            level.append(nn.Conv2d(width, width, 3, padding=1, bias=False))
            levels.append(level)
        first = [nn.Conv2d(latent, width, 3, padding=1), nn.ReLU()]
        last = [TinyBlock(width) for _ in range(DECODER_BLOCKS[-1])]
        out = nn.Conv2d(width, COLOURS, 3, padding=1)
        self.layers = nn.Sequential(*first, *chain.from_iterable(levels), *last, out)


class TinyBlock(nn.Module):
    """Three convolutions, added to what came in."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + x)
