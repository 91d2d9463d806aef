"""A folded layer and its addition in two kernels, where the card runs them.

Which card, and whether they give there what torch gives, `kernels` says. Knows nothing of people
or steps.

Shapes: B batch, L image tokens, D Flux width.
"""

from __future__ import annotations

import functools
from types import ModuleType

import torch
from torch import Tensor, nn

from pulid_generate.injection.attention import FoldedAttention
from pulid_generate.kernels.availability import serves


def kernels_for(layer: nn.Module, img_tokens: Tensor) -> ModuleType | None:
    """The kernels that add this layer to these tokens, or None where torch's own operations have to
    do it: another device or form of the layer, gradients, a card that failed its trial.
    """
    if not isinstance(layer, FoldedAttention) or not serves(img_tokens.device):
        return None
    if layer.a.dtype != img_tokens.dtype:
        return None
    if torch.is_grad_enabled() and img_tokens.requires_grad:
        return None
    columns, width = layer.a.shape
    tokens = columns // layer.heads
    return _trusted_kernels(img_tokens.device, img_tokens.dtype, width, layer.heads, tokens)


def add_fused(
    kernels: ModuleType,
    total: Tensor,
    img_tokens: Tensor,
    layer: nn.Module,
    weight: float,
    share: Tensor | None = None,
) -> Tensor:
    """total + weight * share * CA(img_tokens), a new tensor (B, L, D).

    kernels: what `kernels_for` gave. share: None for 1, or float32 (B, L); where it is 0 nothing is
    added.
    """
    number = _on_device(weight, img_tokens.device)
    folded = (layer.a, layer.c, layer.b)
    return kernels.add_identity(total, img_tokens, *folded, layer.heads, number, share)


@functools.cache
def _trusted_kernels(
    device: torch.device, dtype: torch.dtype, width: int, heads: int, tokens: int
) -> ModuleType | None:
    """The kernels, if on this card and for these sizes they give what torch gives."""
    from pulid_generate.kernels import identity, identity_check

    if tokens > identity.MOST_IDENTITY_TOKENS:
        return None
    return identity if identity_check.passes(device, dtype, width, heads, tokens) else None


def _on_device(weight: float, device: torch.device) -> Tensor:
    """A step's weight, where the kernels read it."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        # the recording writes it each time: what is remembered here may be gone by then
        return _filled(weight, device)
    return _remembered(weight, device)


def _filled(weight: float, device: torch.device) -> Tensor:
    return torch.full((1,), weight, dtype=torch.float32, device=device)


# the same few numbers come again and again
_remembered = functools.lru_cache(maxsize=256)(_filled)
