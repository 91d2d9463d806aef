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

NARROW = (torch.bfloat16, torch.float16)


def widen_while_running(model: nn.Module, whole: tuple[type[nn.Module], ...] = ()) -> nn.Module:
    """Give every unit of `model` float32 weights during its own forward, through one buffer that
    all units share.

    A unit is a module with parameters of its own, or a module of a class in `whole` with all that
    is below it: for classes that look at a child's weight dtype before they call it. Units must not
    run inside one another. Returns `model`.
    """
    # a tied weight (T5's embedding) belongs to several units; each widens it for itself
    units = list(_units(model, whole))
    narrow = [[p for p in unit.parameters() if p.dtype in NARROW] for unit in units]
    if not any(narrow):
        return model
    device = next(p.device for parameters in narrow for p in parameters)
    # float32 numbers of the largest unit; embeddings are excluded, only a few of their rows are
    # ever read
    largest = max(
        (
            sum(p.numel() for p in parameters)
            for unit, parameters in zip(units, narrow, strict=True)
            if not _is_table(unit)
        ),
        default=0,
    )
    buffer = torch.empty(largest, dtype=torch.float32, device=device)
    for unit, parameters in zip(units, narrow, strict=True):
        if not parameters:
            continue
        if _is_table(unit):
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


def _is_table(unit: nn.Module) -> bool:
    return isinstance(unit, nn.Embedding)


def _units(module: nn.Module, whole: tuple[type[nn.Module], ...]) -> Iterator[nn.Module]:
    if isinstance(module, whole) or next(module.parameters(recurse=False), None) is not None:
        yield module
        return
    for child in module.children():
        yield from _units(child, whole)
