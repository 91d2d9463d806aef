"""Weights kept in the 16 bits of their file, widened to float32 only while the layer that owns them
runs.

For CPUs: bfloat16 matrix products are several times slower there and less exact, while float32
copies of Flux need 48 GB. The arithmetic is bit for bit that of a float32 model, since every 16-bit
number is a float32 number. Knows nothing of Flux or T5.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

SIXTEEN_BITS = (torch.bfloat16, torch.float16)


def widen_while_running(model: nn.Module) -> nn.Module:
    """Give every unit of `model` float32 weights during its own forward, through one buffer that
    all units share.

    A unit is a module with parameters of its own; units must not run inside one another. Returns
    `model`.
    """
    units = []
    for unit in _units(model):
        parameters = [p for p in unit.parameters() if p.dtype in SIXTEEN_BITS]
        if parameters:
            units.append((unit, parameters))
    if not units:
        return model
    # Of an embedding only a few rows are ever read: what it looks up is widened, not the table.
    # The buffer holds the float32 numbers of the largest other unit.
    largest = 0
    for unit, parameters in units:
        if not isinstance(unit, nn.Embedding):
            largest = max(largest, sum(p.numel() for p in parameters))
    device = units[0][1][0].device
    buffer = torch.empty(largest, dtype=torch.float32, device=device)
    for unit, parameters in units:
        if isinstance(unit, nn.Embedding):
            unit.register_forward_hook(_widen_output)
        else:
            _widen_unit(unit, parameters, buffer)
    return model


def _widen_unit(unit: nn.Module, parameters: list[nn.Parameter], buffer: torch.Tensor) -> None:
    stored = [p.data for p in parameters]

    def before(_unit, _arguments):
        start = 0
        for parameter, data in zip(parameters, stored, strict=True):
            view = buffer[start : start + data.numel()].view(data.shape)
            parameter.data = view.copy_(data)
            start += data.numel()

    def after(_unit, _arguments, _output):
        for parameter, data in zip(parameters, stored, strict=True):
            parameter.data = data

    unit.register_forward_pre_hook(before)
    unit.register_forward_hook(after, always_call=True)


def _widen_output(_unit, _arguments, output: torch.Tensor) -> torch.Tensor:
    return output.float()


def _units(module: nn.Module) -> Iterator[nn.Module]:
    if next(module.parameters(recurse=False), None) is not None:
        yield module
        return
    for child in module.children():
        yield from _units(child)
