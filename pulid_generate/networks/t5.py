"""T5's encoder (v1.1): token ids to the states that Flux attends to.

Parameters are named as in transformers' T5EncoderModel. There is no attention mask: Flux was
trained with the padding attended to. Knows no file and no tokenizer.

Shapes: B prompts, T tokens, C width, heads of 64.

Sources: google-research/t5x and mesh (relative position buckets); arXiv 1910.10683; the gated
feed-forward of v1.1: arXiv 2002.05202.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pulid_generate.networks.tables import empty_table

EPS = 1e-6
MAX_DISTANCE = 128  # relative_attention_max_distance of every T5


class T5Encoder(nn.Module):
    """The encoder with its token table."""

    def __init__(
        self,
        *,
        rows: int,
        width: int,
        inner: int,
        depth: int,
        heads: int,
        head_width: int,
        buckets: int,
    ):
        """rows: of the token table. inner: width of the MLPs. buckets: of relative positions."""
        super().__init__()
        # ids that the token table has
        self.rows = rows
        # which may be replaced by one whose rows are packed
        self.shared: nn.Module = empty_table(rows, width)
        self.encoder = T5Stack(width, inner, depth, heads, head_width, buckets)

    @property
    def device(self) -> torch.device:
        return self.encoder.final_layer_norm.weight.device

    def forward(self, ids: Tensor) -> Tensor:
        """States (B, T, C) of ids (B, T), int64."""
        return self.encoder(self.shared(ids))


class T5Stack(nn.Module):
    """The blocks. The first one's position bias is everybody's."""

    def __init__(
        self, width: int, inner: int, depth: int, heads: int, head_width: int, buckets: int
    ):
        super().__init__()
        self.block = nn.ModuleList(
            T5Block(width, inner, heads, head_width, buckets if index == 0 else None)
            for index in range(depth)
        )
        self.final_layer_norm = T5Norm(width)

    def forward(self, states: Tensor) -> Tensor:
        bias = None
        for block in self.block:
            states, bias = block(states, bias)
        return self.final_layer_norm(states)


class T5Block(nn.Module):
    """Attention, then a gated MLP: entries 0 and 1 of `layer`."""

    def __init__(self, width: int, inner: int, heads: int, head_width: int, buckets: int | None):
        super().__init__()
        self.layer = nn.ModuleList(
            [T5AttentionLayer(width, heads, head_width, buckets), T5MlpLayer(width, inner)]
        )

    def forward(self, states: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """The states, and the position bias for the next block."""
        states, bias = self.layer[0](states, bias)
        return self.layer[1](_finite(states)), bias


class T5AttentionLayer(nn.Module):
    """A norm and attention, added."""

    def __init__(self, width: int, heads: int, head_width: int, buckets: int | None):
        super().__init__()
        self.SelfAttention = T5Attention(width, heads, head_width, buckets)
        self.layer_norm = T5Norm(width)

    def forward(self, states: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        attended, bias = self.SelfAttention(self.layer_norm(states), bias)
        return states + attended, bias


class T5MlpLayer(nn.Module):
    """A norm and a gated MLP, added."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.DenseReluDense = T5Mlp(width, inner)
        self.layer_norm = T5Norm(width)

    def forward(self, states: Tensor) -> Tensor:
        return _finite(states + self.DenseReluDense(self.layer_norm(states)))


class T5Attention(nn.Module):
    """Self-attention with a bias by relative position, and without a scale: T5's weights hold
    it.
    """

    def __init__(self, width: int, heads: int, head_width: int, buckets: int | None):
        """buckets: None for a block that uses the first one's bias."""
        super().__init__()
        self.heads = heads
        inner = heads * head_width
        self.q = nn.Linear(width, inner, bias=False)
        self.k = nn.Linear(width, inner, bias=False)
        self.v = nn.Linear(width, inner, bias=False)
        self.o = nn.Linear(inner, width, bias=False)
        if buckets is not None:
            self.relative_attention_bias = empty_table(buckets, heads)

    def forward(self, states: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        query, key, value = (
            project(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q, self.k, self.v)
        )
        if bias is None:
            table = self.relative_attention_bias
            places = relative_buckets(states.shape[1], table.num_embeddings, states.device)
            bias = table(places).permute(2, 0, 1)[None]
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        return self.o(out.transpose(1, 2).flatten(2)), bias


class T5Mlp(nn.Module):
    """GELU of one projection gates the other."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.wi_0 = nn.Linear(width, inner, bias=False)
        self.wi_1 = nn.Linear(width, inner, bias=False)
        self.wo = nn.Linear(inner, width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        return self.wo(_gelu(self.wi_0(states)) * self.wi_1(states))


class T5Norm(nn.Module):
    """Root mean square norm, its statistics in float32; neither mean nor bias."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, states: Tensor) -> Tensor:
        variance = states.float().pow(2).mean(-1, keepdim=True)
        normed = states * torch.rsqrt(variance + EPS)
        return self.weight * normed.to(self.weight.dtype)


def relative_buckets(length: int, buckets: int, device: torch.device | str = "cpu") -> Tensor:
    """The bucket (T, T) of each pair's distance, int64: half of them for tokens ahead; in each half
    one a token up to a quarter, then logarithmically up to 128.
    """
    places = torch.arange(length, device=device)
    distance = places[None, :] - places[:, None]
    half, exact = buckets // 2, buckets // 4
    ahead = (distance > 0).long() * half
    distance = distance.abs()
    spread = torch.log(distance.float() / exact) / math.log(MAX_DISTANCE / exact)
    far = exact + (spread * (half - exact)).long()
    far = torch.min(far, torch.full_like(far, half - 1))
    return ahead + torch.where(distance < exact, distance, far)


def _gelu(x: Tensor) -> Tensor:
    """GELU by tanh, operation by operation as T5 was trained, to the same last bit."""
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))
    return 0.5 * x * (1.0 + torch.tanh(inner))


def _finite(states: Tensor) -> Tensor:
    """float16 overflows in T5-XXL: infinity becomes a number that the next norm can take."""
    if states.dtype != torch.float16:
        return states
    limit = torch.finfo(torch.float16).max
    bound = torch.where(torch.isinf(states).any(), limit - 1000, limit)
    return torch.clamp(states, min=-bound, max=bound)
