"""EVA02-CLIP's image tower as a torch module: pixels -> tokens, every block's and the last.

Attributes are timm's names (`models/eva.py`, Eva with SwiGLU and inner norms), so that its
checkpoints load as they are; the numbers are timm's, by test. It stands here because importing timm
imports every model that timm has. Knows nothing of files, faces or PuLID.

Sources: timm 1.0 models/eva.py, layers/pos_embed_sincos.py; Fang et al., EVA-02 (arXiv 2303.11331).
Shapes: B batch, S picture side, G = S / patch, L = 1 + G^2 tokens with the class token first, W
width, H heads of 64.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD_WIDTH = 64
EPSILON = 1e-6
# rope was trained on a grid of 224 / 14 patches a side; another grid is stretched onto it
ROPE_GRID = 16
ROPE_TEMPERATURE = 10000.0


class PatchEmbed(nn.Module):
    """A picture cut into squares."""

    def __init__(self, side: int, patch: int, width: int):
        super().__init__()
        self.img_size = (side, side)
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, G^2, W)."""
        return self.proj(pixels).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Attention with rope on the patches, and a norm before its last product."""

    def __init__(self, width: int):
        super().__init__()
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, EPSILON)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, sines: Tensor, cosines: Tensor) -> Tensor:
        """tokens: (B, L, W). sines, cosines: (G^2, 64) float32."""
        heads = []
        for project in (self.q_proj, self.k_proj, self.v_proj):
            heads.append(project(tokens).unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2))
        query, key, value = heads
        query, key = _rotated(query, sines, cosines), _rotated(key, sines, cosines)
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(self.norm(attended.transpose(1, 2).flatten(2)))


def _rotated(heads: Tensor, sines: Tensor, cosines: Tensor) -> Tensor:
    """(B, H, L, 64): the patches' pairs of numbers turned by their place, the class token as it
    is.
    """
    patches = heads[:, :, 1:]
    quarter = torch.stack([-patches[..., 1::2], patches[..., ::2]], -1).flatten(-2)
    turned = (patches * cosines + quarter * sines).to(heads.dtype)
    return torch.cat([heads[:, :, :1], turned], dim=2)


class SwiGlu(nn.Module):
    """The gated layer of a block, with a norm inside."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1_g = nn.Linear(width, hidden)
        self.fc1_x = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden, EPSILON)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, W) -> (B, L, W)."""
        gated = functional.silu(self.fc1_g(tokens)) * self.fc1_x(tokens)
        return self.fc2(self.norm(gated))


class Block(nn.Module):
    """One layer, norms before its halves."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPSILON)
        self.attn = Attention(width)
        self.norm2 = nn.LayerNorm(width, EPSILON)
        self.mlp = SwiGlu(width, hidden)

    def forward(self, tokens: Tensor, sines: Tensor, cosines: Tensor) -> Tensor:
        """(B, L, W) -> (B, L, W)."""
        tokens = tokens + self.attn(self.norm1(tokens), sines, cosines)
        return tokens + self.mlp(self.norm2(tokens))


class EvaTower(nn.Module):
    """The whole tower, and the layer that makes a CLIP vector of its class token."""

    def __init__(self, side: int, patch: int, width: int, depth: int, hidden: int, pooled: int):
        """side: S. hidden: width inside SwiGlu. pooled: width of the CLIP vector."""
        super().__init__()
        grid = side // patch
        self.patch_embed = PatchEmbed(side, patch, width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + grid**2, width))
        self.blocks = nn.ModuleList([Block(width, hidden) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, EPSILON)
        self.head = nn.Linear(width, pooled)
        self.embed_dim, self.num_classes = width, pooled
        self._angles = rope_angles(grid)

    def forward(self, pixels: Tensor, taps: Collection[int] = ()) -> tuple[Tensor, list[Tensor]]:
        """pixels: (B, 3, S, S). taps: numbers of blocks, rising. Returns the normed tokens (B, L,
        W), and the tokens (B, L, W) behind each of these blocks.
        """
        tokens = self.patch_embed(pixels)
        class_tokens = self.cls_token.expand(len(tokens), -1, -1)
        tokens = torch.cat([class_tokens, tokens], dim=1) + self.pos_embed
        # in float32 whatever the weights are: `.to(dtype)` would round a buffer
        angles = self._angles.to(tokens.device)
        sines, cosines = angles.sin(), angles.cos()
        tapped = []
        for number, block in enumerate(self.blocks):
            tokens = block(tokens, sines, cosines)
            if number in taps:
                tapped.append(tokens)
        return self.norm(tokens), tapped

    def pool(self, normed: Tensor) -> Tensor:
        """The CLIP vector (B, P) of normed tokens (B, L, W), not normalised."""
        return self.head(normed[:, 0])


def rope_angles(grid: int) -> Tensor:
    """(G^2, 64) float32: by how much each pair of a head's numbers turns at each patch, rows of the
    picture in the first half, columns in the second.
    """
    count = HEAD_WIDTH // 4
    bands = 1.0 / ROPE_TEMPERATURE ** (torch.arange(count, dtype=torch.float32) / count)
    places = torch.arange(grid, dtype=torch.float32) / grid * ROPE_GRID
    rows, columns = torch.meshgrid(places, places, indexing="ij")
    angles = torch.stack([rows, columns], dim=-1)[..., None] * bands
    return angles.reshape(grid**2, 2 * count).repeat_interleave(2, dim=-1)
