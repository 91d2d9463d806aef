"""Flux's autoencoder: pixels to latents and back, eight pixels a latent cell.

Parameters are named as in diffusers' AutoencoderKL. Knows no file, no scale of latents and no
tiles.

Shapes: B pictures, C channels, h x w latent cells, 8h x 8w pixels.

Source: black-forest-labs/flux src/flux/modules/autoencoder.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_GROUPS = 32
EPS = 1e-6
COLOURS = 3


class Autoencoder(nn.Module):
    """Decoder, and encoder unless the file has none."""

    def __init__(
        self, channels: Sequence[int], latent: int, *, blocks: int, with_encoder: bool = True
    ):
        """channels: of each level, from the finest. latent: channels of a latent. blocks: residual
        blocks of an encoder's level; a decoder's has one more.
        """
        super().__init__()
        if with_encoder:
            self.encoder = Encoder(channels, latent, blocks)
        self.decoder = Decoder(channels, latent, blocks + 1)

    @property
    def device(self) -> torch.device:
        return self.decoder.conv_out.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.conv_out.weight.dtype

    def encode(self, pixels: Tensor) -> Tensor:
        """Mean and log variance (B, 2 * latent, h, w) of pixels (B, 3, 8h, 8w) in -1..1."""
        return self.encoder(pixels)

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, 8h, 8w), about -1..1, of latents (B, latent, h, w)."""
        return self.decoder(latents)


class Encoder(nn.Module):
    """From fine to coarse."""

    def __init__(self, channels: Sequence[int], latent: int, blocks: int):
        super().__init__()
        self.conv_in = nn.Conv2d(COLOURS, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        last = len(channels) - 1
        for level, width in enumerate(channels):
            before = channels[max(level - 1, 0)]
            self.down_blocks.append(DownLevel(before, width, blocks, halve=level < last))
        self.mid_block = MiddleLevel(channels[-1])
        self.conv_norm_out = _norm(channels[-1])
        self.conv_out = nn.Conv2d(channels[-1], 2 * latent, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv_in(pixels)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """From coarse to fine."""

    def __init__(self, channels: Sequence[int], latent: int, blocks: int):
        super().__init__()
        coarse_first = list(reversed(channels))
        self.conv_in = nn.Conv2d(latent, coarse_first[0], 3, padding=1)
        self.mid_block = MiddleLevel(coarse_first[0])
        self.up_blocks = nn.ModuleList()
        last = len(channels) - 1
        for level, width in enumerate(coarse_first):
            before = coarse_first[max(level - 1, 0)]
            self.up_blocks.append(UpLevel(before, width, blocks, double=level < last))
        self.conv_norm_out = _norm(channels[0])
        self.conv_out = nn.Conv2d(channels[0], COLOURS, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(latents))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class DownLevel(nn.Module):
    """Residual blocks, then half the size."""

    def __init__(self, before: int, width: int, blocks: int, *, halve: bool):
        super().__init__()
        self.resnets = _residual_blocks(before, width, blocks)
        if halve:
            self.downsamplers = nn.ModuleList([Halve(width)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        return self.downsamplers[0](x) if hasattr(self, "downsamplers") else x


class UpLevel(nn.Module):
    """Residual blocks, then twice the size."""

    def __init__(self, before: int, width: int, blocks: int, *, double: bool):
        super().__init__()
        self.resnets = _residual_blocks(before, width, blocks)
        if double:
            self.upsamplers = nn.ModuleList([Double(width)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        return self.upsamplers[0](x) if hasattr(self, "upsamplers") else x


class MiddleLevel(nn.Module):
    """A residual block, attention over all cells, a residual block."""

    def __init__(self, width: int):
        super().__init__()
        self.attentions = nn.ModuleList([CellAttention(width)])
        self.resnets = _residual_blocks(width, width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, added to what came in."""

    def __init__(self, before: int, width: int):
        super().__init__()
        self.norm1 = _norm(before)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1)
        self.norm2 = _norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        if before != width:
            self.conv_shortcut = nn.Conv2d(before, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(F.silu(self.norm1(x)))
        inner = self.conv2(F.silu(self.norm2(inner)))
        if hasattr(self, "conv_shortcut"):
            x = self.conv_shortcut(x)
        return x + inner


class CellAttention(nn.Module):
    """One head over all cells, added."""

    def __init__(self, width: int):
        super().__init__()
        self.group_norm = _norm(width)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        # a list, for the names
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        cells = self.group_norm(x.flatten(2)).transpose(1, 2)
        query, key, value = (
            project(cells)[:, None] for project in (self.to_q, self.to_k, self.to_v)
        )
        out = F.scaled_dot_product_attention(query, key, value)[:, 0]
        return self.to_out[0](out).transpose(1, 2).reshape(x.shape) + x


class Halve(nn.Module):
    """A convolution with stride 2, padded at the right and at the bottom only."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Double(nn.Module):
    """Every cell four times, then a convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _residual_blocks(before: int, width: int, blocks: int) -> nn.ModuleList:
    widths = [before] + [width] * (blocks - 1)
    return nn.ModuleList(ResidualBlock(each, width) for each in widths)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(NORM_GROUPS, width, eps=EPS)
