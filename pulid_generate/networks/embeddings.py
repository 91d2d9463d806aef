"""Time, guidance and CLIP's vector as the one vector that modulates every block of Flux.

Modules and parameters are named as in diffusers' CombinedTimestepGuidanceTextProjEmbeddings.

Sources: black-forest-labs/flux src/flux/modules/layers.py (MLPEmbedder) and src/flux/model.py;
names: huggingface/diffusers 0.42.1 src/diffusers/models/embeddings.py.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pulid_generate.networks.positions import TIME_CHANNELS, sinusoids


class TimeTextEmbedding(nn.Module):
    """Time, guidance and CLIP's vector in one vector (B, D), which modulates every block."""

    def __init__(self, width: int, pooled: int, guidance: bool):
        super().__init__()
        self.timestep_embedder = VectorEmbedding(TIME_CHANNELS, width)
        if guidance:
            self.guidance_embedder = VectorEmbedding(TIME_CHANNELS, width)
        self.text_embedder = VectorEmbedding(pooled, width)

    def forward(self, timestep: Tensor, guidance: Tensor | None, pooled: Tensor) -> Tensor:
        """timestep, guidance: (B,), 0 to 1000 and the scale times 1000. pooled: (B, pooled)."""
        embedded = self.timestep_embedder(sinusoids(timestep).to(pooled.dtype))
        if guidance is not None:
            embedded = embedded + self.guidance_embedder(sinusoids(guidance).to(pooled.dtype))
        return embedded + self.text_embedder(pooled)


class VectorEmbedding(nn.Module):
    """Two linear layers with SiLU between them."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(channels, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))
