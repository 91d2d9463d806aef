"""What networks that are wired by hand have in common: all weights 0 but a few, a 3x3 kernel that
blurs, last layers that are fitted by least squares, and files in which zeros take no room. Knows no
network.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

BLUR = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16


def blur(maps: torch.Tensor, stride: int = 1) -> torch.Tensor:
    """Each channel of (B, C, H, W) by BLUR."""
    channels = maps.shape[1]
    return functional.conv2d(
        maps, BLUR.expand(channels, 1, 3, 3), stride=stride, padding=1, groups=channels
    )


def clear(net: nn.Module) -> None:
    """All weights 0, batch norms neutral: a residual block then hands on its shortcut, a plain one
    gives 0.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.zero_()
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.reset_parameters()


def ridge(inputs: torch.Tensor, target: torch.Tensor, strength: float) -> torch.Tensor:
    """(F + 1, T): least squares with a small penalty; the last row is the bias."""
    inputs = functional.pad(inputs, (0, 1), value=1.0)
    penalty = strength * len(inputs) * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    return torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ target)


def save(net: nn.Module, path: Path) -> Path:
    """A plain state dict in 16 bits; a tensor of one value is stored as that value, stretched."""
    state = {}
    for name, tensor in net.state_dict().items():
        stored = tensor.half() if tensor.is_floating_point() else tensor
        first = stored.reshape(-1)[:1].clone()
        state[name] = (
            first.expand(stored.numel()).view(stored.shape)
            if (stored == first).all()
            else stored.clone()
        )
    torch.save(state, path)
    return path
