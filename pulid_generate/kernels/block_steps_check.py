"""A trial of `block_steps` against torch on the card that is to run it.

Shapes: as in block_steps; two pictures of three tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pulid_generate.kernels import block_steps, trials

NAME = "what stands between a block's products"
EPS = 1e-6
HEAD = 128


def passes(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether every kernel gives what torch's operations give, for tokens of this width."""
    if width % HEAD:
        return False
    return trials.passes(NAME, device, dtype, lambda: _pairs(device, dtype, width))


def _pairs(device: torch.device, dtype: torch.dtype, width: int) -> list[trials.Pair]:
    """What each kernel gives, and what it should."""
    random = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(device, dtype)

    x, more = normal(2, 3, width), normal(2, 3, width)
    shift, scale, gate = normal(2, 1, 3 * width).chunk(3, dim=-1)
    normed = F.layer_norm(x.float(), (width,), eps=EPS) * (1 + scale.float()) + shift.float()
    gated = more.float() + gate.float() * x.float()

    weight, angles = normal(HEAD), torch.rand(5, HEAD // 2, generator=random).to(device) * 6
    cosines, sines = (f(angles).repeat_interleave(2, dim=1) for f in (torch.cos, torch.sin))
    heads = F.rms_norm(x.float().unflatten(-1, (-1, HEAD)), (HEAD,), weight.float(), EPS)
    real, imaginary = heads.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-imaginary, real], dim=-1).flatten(3)
    rotated = heads * cosines[2:, None] + turned * sines[2:, None]
    placed = torch.zeros(2, 5, width, device=device, dtype=dtype)
    block_steps.norm_rotate(x, weight, cosines, sines, placed, 2, EPS)

    wide = torch.zeros(2, 3, 2 * width, device=device, dtype=dtype)
    block_steps.gelu_into(x, wide[..., width:])
    return [
        (block_steps.norm_modulate(x, shift, scale, EPS), normed),
        (block_steps.add_gated(more, gate, x), gated),
        (placed[:, 2:], rotated.flatten(2)),
        (placed[:, :2], torch.zeros(2, 2, width, device=device)),
        (wide[..., width:], F.gelu(x.float(), approximate="tanh")),
        (wide[..., :width], torch.zeros(2, 3, width, device=device)),
    ]
