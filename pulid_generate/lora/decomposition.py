"""DoRA on a layer that has a weight: the lengths that the magnitudes are divided by, and what is
added to the layer's output.

The weight is read once, packed or not, and never changed. Knows layers with `weight` and `bias`; no
file.

Shapes: C inputs, R outputs.

Source: Liu et al., DoRA (arXiv 2402.09353), equation 5; a strength below 1 goes part of the way, as
in ComfyUI comfy/weight_adapter/base.py (weight_decompose).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pulid_generate.lora.changes import Decomposed, Matrix
from pulid_generate.packed.layers import PACKED


@dataclass(frozen=True)
class DecomposedLayer:
    """One DoRA on one layer: W' - W, times its weight."""

    # ready for the layer's input, at full strength
    matrix: Matrix
    # magnitude / length: (R,) of rows, (C,) of columns
    gain: Tensor
    of_rows: bool
    weight: float

    @classmethod
    def of(
        cls,
        change: Decomposed,
        layer: nn.Module,
        find: Callable[[str], nn.Module],
        dtype: torch.dtype,
        device: torch.device | str,
        weight: float,
    ) -> DecomposedLayer:
        """find: a layer of the model by its name, for lengths that several layers share. dtype,
        device: of the layer's input.
        """
        if change.of_rows:
            lengths = _changed(layer, change.matrix).norm(dim=1)
        else:
            shared = [(find(name), part) for name, part in change.shared]
            squares = [
                _changed(one, part).square().sum(0)
                for one, part in shared or [(layer, change.matrix)]
            ]
            lengths = (
                torch.stack([square.to(squares[0].device) for square in squares]).sum(0).sqrt()
            )
        tiny = torch.finfo(torch.float32).tiny
        magnitude = change.magnitude.to(lengths.device).float()
        gain = (magnitude / lengths.clamp_min(tiny)).to(device, dtype)
        return cls(change.matrix.ready(dtype, device, 1.0), gain, change.of_rows, weight)

    def added(self, layer: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """(.., R) of the input (.., C) and the layer's own output."""
        bias: Tensor | None = layer.bias  # type: ignore[assignment]
        gain = self.gain.to(x.device, x.dtype)
        if self.of_rows:
            own = output if bias is None else output - bias.to(output.dtype)
            return self.weight * ((gain - 1) * own + gain * self.matrix.apply(x))
        # the layer's own product of another input; no hook is called
        forward: Callable[[Tensor], Tensor] = layer.forward
        moved = forward(x * (gain - 1))
        if bias is not None:
            moved = moved - bias.to(moved.dtype)
        return self.weight * (moved + self.matrix.apply(x * gain))


def _changed(layer: nn.Module, matrix: Matrix) -> Tensor:
    """The layer's weight and the change together, (R, C) float32, where the weight is."""
    weight: Any = layer.weight
    if isinstance(weight, PACKED):
        own = weight.dequantize(torch.float32)
    else:
        own = weight.detach().float()
    return own + matrix.dense().to(own.device)
