"""Convolutions that have taken in the batch norm behind them, and run as torch runs them fastest.
Knows no network.

In eval mode a batch norm is a factor and a summand for each channel, so both can be part of the
convolution's weights, which saves a pass over its whole output: 1.4 million numbers a channel and
second in a detector that sees a photograph at its own size. The products are computed in float64
once, when a file is loaded; outputs differ from those of the two layers by rounding alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from pulid_extract.shared.cpu_linear import has_onednn
from pulid_extract.shared.errors import WeightsError

# of every batch norm in the files read here: torch's default
EPSILON = 1e-5
STATISTICS = ("weight", "bias", "running_mean", "running_var")


class Convolution(nn.Conv2d):
    """A convolution with a bias, which holds its norm, and what is done to its output at once."""

    def __init__(
        self, inputs: int, outputs: int, side: int, stride: int = 1, activation: str = "none"
    ):
        """side: of the kernel, odd; the picture is padded by half of it. activation: "none" or
        "relu".
        """
        super().__init__(inputs, outputs, side, stride, side // 2)
        self.activation = activation

    def forward(self, input: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        if _goes_to_onednn(input):
            size = (self.padding, self.stride, self.dilation)
            return torch.ops.mkldnn._convolution_pointwise(
                input, self.weight, self.bias, *size, 1, self.activation, [], ""
            )
        output = super().forward(input)
        return functional.relu_(output) if self.activation == "relu" else output


def _goes_to_onednn(maps: Tensor) -> bool:
    """Whether a convolution and what follows it can be one call there."""
    is_plain = maps.device.type == "cpu" and maps.dtype == torch.float32 and not maps.requires_grad
    return is_plain and has_onednn()


def fold_norms(
    tensors: Mapping[str, Tensor], pairs: Iterable[tuple[str, str]], path: Path, what: str
) -> dict[str, Tensor]:
    """The tensors of a checkpoint, every batch norm taken into its convolution. pairs: (name of a
    convolution without a bias, name of the norm behind it). Raises WeightsError for a pair that is
    not whole or does not fit.
    """
    folded = dict(tensors)
    for convolution, norm in pairs:
        names = [f"{convolution}.weight", *(f"{norm}.{name}" for name in STATISTICS)]
        missing = [name for name in names if name not in folded]
        if missing:
            raise WeightsError(f"{path}: does not fit {what}: missing {', '.join(missing[:3])}")
        weight, factor, summand, mean, variance = (folded.pop(name).double() for name in names)
        # a counter that files from before it existed lack, of no use here
        folded.pop(f"{norm}.num_batches_tracked", None)
        if weight.ndim != 4 or any(
            one.shape != weight.shape[:1] for one in (factor, summand, mean, variance)
        ):
            raise WeightsError(f"{path}: does not fit {what}: wrong shape {norm}.weight")
        scale = factor / torch.sqrt(variance + EPSILON)
        folded[f"{convolution}.weight"] = (weight * scale[:, None, None, None]).float()
        folded[f"{convolution}.bias"] = (summand - mean * scale).float()
    return folded


def norm_pairs(norms: Mapping[str, str], names: Iterable[str]) -> list[tuple[str, str]]:
    """(convolution, norm) of every module of these names. norms: last part of a convolution's name
    -> last part of its norm's.
    """
    pairs = []
    for name in names:
        parent, _, last = name.rpartition(".")
        if last in norms:
            pairs.append((name, f"{parent}.{norms[last]}" if parent else norms[last]))
    return pairs
