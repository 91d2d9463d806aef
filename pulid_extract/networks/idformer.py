"""IDFormer: ArcFace and EVA-CLIP features of one or several portraits -> identity tokens.

The attribute names are the checkpoint's (`pulid_encoder.*` of pulid_flux_v0.9.1.safetensors). Knows
nothing of pictures.

Source: ToTheBeginning/PuLID 1aa2fc7, pulid/encoders_transformer.py (arXiv 2404.16022). Shapes: B
batch, I images, N id tokens (32), L tokens of a hidden state, D inner width (1024), C output width
(2048).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from pulid_extract.networks.checkpoint import (
    count_of,
    load_strictly,
    read_tensors,
    size_of,
    without_init,
)
from pulid_extract.shared.cpu_linear import use_cpu_linear
from pulid_extract.shared.errors import WeightsError

PREFIX = "pulid_encoder."
HEAD_WIDTH = 64
# hidden states of the tower, one mapping each; the layers divide evenly among them
SCALES = 5
WHAT = "PuLID's IDFormer"


class PerceiverAttention(nn.Module):
    """Latents attend to the context and to themselves."""

    def __init__(self, dim: int, inner: int, kv_dim: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(kv_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(kv_dim, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, context: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """context: (B, L, D). latents: (B, N, D). Returns (B, N, D), to be added to the latents."""
        latents = self.norm2(latents)
        keys_from = torch.cat([self.norm1(context), latents], dim=1)
        query = self._heads(self.to_q(latents))
        key, value = (self._heads(half) for half in self.to_kv(keys_from).chunk(2, dim=-1))
        # on q and on k, as the reference does: the product stays in range in half precision
        scale = HEAD_WIDTH**-0.25
        weights = (query * scale) @ (key * scale).transpose(-2, -1)
        out = weights.float().softmax(dim=-1).to(value.dtype) @ value
        return self.to_out(out.transpose(1, 2).flatten(2))

    @staticmethod
    def _heads(x: torch.Tensor) -> torch.Tensor:
        """(B, L, heads * 64) -> (B, heads, L, 64)."""
        return x.unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2)


class IDFormer(nn.Module):
    """The encoder at the sizes of the reference by default.

    cond_dim: width of the condition vector: ArcFace 512 + EVA-CLIP's pooled 768. vit_dims: width of
    each of the five hidden states.
    """

    def __init__(
        self,
        dim: int = 1024,
        depth: int = 10,
        inner: int = 1024,
        ff_dim: int = 4096,
        num_latents: int = 32,
        output_dim: int = 2048,
        cond_dim: int = 1280,
        num_cond_tokens: int = 5,
        vit_dims: tuple[int, ...] = (1024,) * SCALES,
        mapping_dim: int = 1024,
    ):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, num_latents, dim) * dim**-0.5)
        # used as latents @ proj_out, no Linear
        self.proj_out = nn.Parameter(torch.randn(dim, output_dim) * dim**-0.5)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(dim, inner, dim), _feed_forward(dim, ff_dim)])
            for _ in range(depth)
        )
        for i, vit_dim in enumerate(vit_dims):
            self.add_module(f"mapping_{i}", _mapping(vit_dim, mapping_dim, dim))
        self.id_embedding_mapping = _mapping(cond_dim, mapping_dim, dim * num_cond_tokens)
        self.num_latents, self.dim = num_latents, dim
        self.cond_dim, self.vit_dims = cond_dim, vit_dims

    def forward(self, id_cond: torch.Tensor, hidden_states: list[torch.Tensor]) -> torch.Tensor:
        """Identity tokens (B, N, C) in the module's dtype.

        id_cond: (B, cond_dim), or (B, I, cond_dim) for I images: un-normalised ArcFace, then
        L2-normalised pooled vector. hidden_states: five of (B, I * L, vit_dim), images one after
        another along the tokens.
        """
        if id_cond.ndim == 2:
            id_cond = id_cond[:, None]
        batch = id_cond.shape[0]
        # 5 tokens for each image
        cond = self.id_embedding_mapping(id_cond).reshape(batch, -1, self.dim)
        latents = torch.cat([self.latents.expand(batch, -1, -1), cond], dim=1)
        per_scale = len(self.layers) // SCALES
        for i, hidden in enumerate(hidden_states):
            context = torch.cat([cond, self.get_submodule(f"mapping_{i}")(hidden)], dim=1)
            for layer in list(self.layers)[i * per_scale : (i + 1) * per_scale]:
                attention, feed_forward = layer.children()
                latents = attention(context, latents) + latents
                latents = feed_forward(latents) + latents
        return latents[:, : self.num_latents] @ self.proj_out


def _feed_forward(dim: int, inner: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, inner, bias=False),
        nn.GELU(),
        nn.Linear(inner, dim, bias=False),
    )


def _mapping(inputs: int, middle: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, middle),
        nn.LayerNorm(middle),
        nn.LeakyReLU(),
        nn.Linear(middle, middle),
        nn.LayerNorm(middle),
        nn.LeakyReLU(),
        nn.Linear(middle, outputs),
    )


def load_idformer(path: Path, dtype: torch.dtype = torch.float32) -> IDFormer:
    """The encoder of a PuLID-FLUX file, on the CPU, sizes read from its tensors.
    `pulid_ca.*` is not read.

    Raises WeightsError, naming the tensors, if the file's `pulid_encoder.*` is not exactly an
    IDFormer.
    """
    tensors = read_tensors(path, lambda name: name.startswith(PREFIX))
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    if not tensors:
        raise WeightsError(
            f"{path}: holds no {PREFIX}* tensors; {WHAT} needs them: use "
            "pulid_flux_v0.9.1.safetensors"
        )

    def size(name: str, axis: int = 0) -> int:
        return size_of(tensors, name, axis, path, WHAT)

    dim, depth = size("latents", 2), count_of(tensors, "layers.")
    inner = size("layers.0.0.to_q.weight")
    condition = size("id_embedding_mapping.6.weight")
    if inner % HEAD_WIDTH or depth % SCALES or condition % dim:
        raise WeightsError(
            f"{path}: does not fit {WHAT}: {depth} layers (a multiple of {SCALES} expected), "
            f"attention width {inner} (a multiple of {HEAD_WIDTH} expected), "
            f"{condition} condition rows"
        )
    with without_init():
        model = IDFormer(
            dim=dim,
            depth=depth,
            inner=inner,
            ff_dim=size("layers.0.1.1.weight"),
            num_latents=size("latents", 1),
            output_dim=size("proj_out", 1),
            cond_dim=size("id_embedding_mapping.0.weight", 1),
            num_cond_tokens=condition // dim,
            vit_dims=tuple(size(f"mapping_{i}.0.weight", 1) for i in range(SCALES)),
            mapping_dim=size("mapping_0.0.weight"),
        )
    load_strictly(model.to(dtype), tensors, path, WHAT)
    return use_cpu_linear(model)
