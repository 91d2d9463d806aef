"""A trial of `products` against torch on the card that is to run it."""

from __future__ import annotations

import torch

from pulid_generate.kernels import products, trials
from pulid_generate.kernels.ggml import GGML_TYPES, widen_ggml

NAME = "products of one token with a GGUF's matrix"
ROWS, BLOCKS = 37, 6


def passes(device: torch.device, dtype: torch.dtype, kind: int) -> bool:
    """Whether the kernel gives what the widened matrix gives. kind: a key of GGML_TYPES."""
    return trials.passes(NAME, device, dtype, lambda: _pairs(device, dtype, kind))


def _pairs(device: torch.device, dtype: torch.dtype, kind: int) -> list[trials.Pair]:
    random = torch.Generator().manual_seed(1)
    layout = GGML_TYPES[kind]
    size = (ROWS, BLOCKS * layout.size)
    # bytes below 64 hold no infinite and no huge scale
    data = torch.randint(0, 64, size, generator=random, dtype=torch.uint8).to(device)
    widened = widen_ggml(data, kind, dtype).float()
    x = torch.randn(1, widened.shape[1], generator=random).to(device, dtype)
    bias = torch.randn(ROWS, generator=random).to(device)
    expected = x.float() @ widened.T + bias
    return [(products.multiply_ggml(x, data, kind, bias), expected)]
