"""CLIP-L's text tower: token ids to the pooled vector that Flux reads.

Parameters are named as in transformers' CLIPTextModel, without its old prefix `text_model.`. Knows
no file and no tokenizer.

Shapes: B prompts, T tokens (77 at most), C width, heads of 64.

Source: openai/CLIP clip/model.py (Transformer, QuickGELU, encode_text).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pulid_generate.networks.tables import empty_table

EPS = 1e-5


class ClipTextTower(nn.Module):
    """The tower with its causal mask; the pooled state is the end token's."""

    def __init__(
        self, *, rows: int, width: int, inner: int, depth: int, heads: int, positions: int
    ):
        """rows: of the token table. inner: width of the MLPs. positions: the longest prompt."""
        super().__init__()
        self.embeddings = ClipEmbeddings(rows, width, positions)
        self.encoder = ClipEncoder(width, inner, depth, heads)
        self.final_layer_norm = nn.LayerNorm(width, eps=EPS)

    @property
    def device(self) -> torch.device:
        return self.final_layer_norm.weight.device

    @property
    def rows(self) -> int:
        """Ids that the token table has."""
        return self.embeddings.token_embedding.num_embeddings

    def forward(self, ids: Tensor) -> Tensor:
        """The pooled vectors (B, C) of ids (B, T), int64."""
        states = self.final_layer_norm(self.encoder(self.embeddings(ids)))
        # the end token has the highest id
        ends = ids.to(torch.int).argmax(dim=-1)
        return states[torch.arange(len(ids), device=ids.device), ends]


class ClipEmbeddings(nn.Module):
    """Tokens and their places."""

    def __init__(self, rows: int, width: int, positions: int):
        super().__init__()
        self.token_embedding = empty_table(rows, width)
        self.position_embedding = empty_table(positions, width)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        return self.token_embedding(ids) + self.position_embedding(places)


class ClipEncoder(nn.Module):
    """The layers, one after the other."""

    def __init__(self, width: int, inner: int, depth: int, heads: int):
        super().__init__()
        self.layers = nn.ModuleList(ClipLayer(width, inner, heads) for _ in range(depth))

    def forward(self, states: Tensor) -> Tensor:
        for layer in self.layers:
            states = layer(states)
        return states


class ClipLayer(nn.Module):
    """Causal attention, then an MLP, each after a norm and added."""

    def __init__(self, width: int, inner: int, heads: int):
        super().__init__()
        self.self_attn = ClipAttention(width, heads)
        self.layer_norm1 = nn.LayerNorm(width, eps=EPS)
        self.mlp = ClipMlp(width, inner)
        self.layer_norm2 = nn.LayerNorm(width, eps=EPS)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.self_attn(self.layer_norm1(states))
        return states + self.mlp(self.layer_norm2(states))


class ClipAttention(nn.Module):
    """Causal self-attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        query, key, value = (
            project(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class ClipMlp(nn.Module):
    """Two linear layers with QuickGELU between them."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, states: Tensor) -> Tensor:
        states = self.fc1(states)
        return self.fc2(states * torch.sigmoid(1.702 * states))
