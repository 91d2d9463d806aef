"""EVA02-CLIP's text tower: token ids -> one vector in the space of the image tower's pooled ones.

Any width and depth, read from the tensors, which lie as `text.*` in the file whose image tower the
extraction needs. Knows nothing of words or pictures.

Source: ToTheBeginning/PuLID 1aa2fc7, eva_clip/transformer.py (TextTransformer),
model_configs/EVA02-CLIP-L-14-336.json: pre-norm, causal, exact GELU, read at the end token.
Shapes: B batch, T tokens (77), W width.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from pulid_extract.networks.checkpoint import (
    count_of,
    load_strictly,
    read_tensors,
    size_of,
    without_init,
)
from pulid_extract.shared.errors import WeightsError

WHAT = "an EVA02-CLIP text tower"
PREFIX = "text."
HEAD_WIDTH = 64


class TextBlock(nn.Module):
    """One pre-norm layer; the attributes are the file's names."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, width // HEAD_WIDTH, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, hidden), gelu=nn.GELU(), c_proj=nn.Linear(hidden, width)
            )
        )

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """states: (B, T, W). mask: (T, T), -inf where a token may not look."""
        normed = self.ln_1(states)
        attended, _ = self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)
        states = states + attended
        return states + self.mlp(self.ln_2(states))


class TextTower(nn.Module):
    """Tokens in, one vector out."""

    def __init__(self, rows: int, length: int, width: int, depth: int, hidden: int, pooled: int):
        """rows: of the vocabulary. length: T. pooled: width of the vector."""
        super().__init__()
        self.token_embedding = nn.Embedding(rows, width)
        self.positional_embedding = nn.Parameter(torch.empty(length, width))
        blocks = [TextBlock(width, hidden) for _ in range(depth)]
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(blocks)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, pooled))

    @property
    def length(self) -> int:
        """T."""
        return self.positional_embedding.shape[0]

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Tensor:
        """ids: (B, T) int64, padded with 0 behind the end token, which has the highest id of all.
        Returns (B, pooled) float32, not normalised.
        """
        states = self.token_embedding(ids) + self.positional_embedding
        mask = torch.full((ids.shape[1],) * 2, -torch.inf, device=ids.device).triu(1)
        for block in self.transformer.resblocks:  # type: ignore[union-attr]
            states = block(states, mask)
        ends = ids.argmax(dim=-1)
        at_end = self.ln_final(states)[torch.arange(len(ids), device=ids.device), ends]
        return at_end @ self.text_projection


def load_text_tower(path: Path) -> TextTower:
    """The tower with the file's weights, float32 on the CPU, in eval mode. Raises WeightsError for
    a file without one, or with another.
    """
    stored = read_tensors(path, lambda name: name.startswith(PREFIX))
    if not stored:
        raise WeightsError(
            f"{path}: holds no text tower, so that it cannot say whether a picture shows its "
            "prompt; EVA02_CLIP_L_336_psz14_s6B.pt does, or give --prompt-judge FILE.onnx"
        )
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in stored.items()}

    def size(name: str, axis: int = 0) -> int:
        return size_of(tensors, name, axis, path, WHAT)

    width = size("positional_embedding", 1)
    if width % HEAD_WIDTH:
        raise WeightsError(f"{path}: does not fit {WHAT}: width {width}")
    with without_init():
        tower = TextTower(
            rows=size("token_embedding.weight"),
            length=size("positional_embedding"),
            width=width,
            depth=count_of(tensors, "transformer.resblocks."),
            hidden=size("transformer.resblocks.0.mlp.c_fc.weight"),
            pooled=size("text_projection", 1),
        )
    load_strictly(tower, tensors, path, WHAT)
    return tower
