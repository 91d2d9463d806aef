"""A trial of `identity` against torch on the card that is to run it.

Shapes: as in identity; two pictures of five tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pulid_generate.kernels import identity, trials

NAME = "PuLID's layers"
EPS = 1e-5
BATCH, LENGTH, WEIGHT = 2, 5, 0.7
FEW, MANY = LENGTH, identity.FEW_TOKENS


def passes(device: torch.device, dtype: torch.dtype, width: int, heads: int, tokens: int) -> bool:
    """Whether the kernels add what torch adds, for image tokens of this width and a person of so
    many tokens; with few and with many image tokens, for which the tiles differ.
    """
    return trials.passes(NAME, device, dtype, lambda: _pairs(device, dtype, width, heads, tokens))


def _pairs(
    device: torch.device, dtype: torch.dtype, width: int, heads: int, tokens: int
) -> list[trials.Pair]:
    random = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(device)

    columns = heads * tokens
    a = normal(columns, width) / width**0.5
    a = (a - a.mean(dim=1, keepdim=True)).to(dtype)
    c, b = normal(columns), (normal(width, columns) / heads**0.5).to(dtype)
    weight = torch.tensor([WEIGHT], device=device)
    share = torch.tensor([[0.0, 1.0, 0.5, 1.0, 0.0]], device=device).expand(BATCH, LENGTH)
    pairs = []
    for length, part in ((FEW, None), (FEW, share), (MANY, None)):
        x, total = normal(BATCH, length, width).to(dtype), normal(BATCH, length, width).to(dtype)
        found = identity.add_identity(total, x, a, c, b, heads, weight, part)
        pairs.append((found, _expected(total, x, a, c, b, heads, part)))
    return pairs


def _expected(total, x, a, c, b, heads: int, share: Tensor | None) -> Tensor:
    normed = F.layer_norm(x.float(), x.shape[-1:], eps=EPS)
    logits = normed @ a.float().T + c
    weights = logits.unflatten(-1, (heads, -1)).softmax(dim=-1).flatten(-2)
    added = WEIGHT * (weights @ b.float().T)
    return total.float() + (added if share is None else added * share[..., None])
