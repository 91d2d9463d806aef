"""Plain convolutional networks of torch as ONNX files that insightface accepts: batch norms folded,
weights in 16 bits.

Knows convolutions, linear layers, ReLU, pooling, flattening and `Residual`; anything else is an
error, so nothing is left out silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from seeded.onnx_graph import Graph
from torch import nn


def write_network(
    network: nn.Module, path: Path, input_name: str, shape: Sequence[int | str], output: str
) -> None:
    """One picture in, one vector out."""
    graph = Graph(half=True)
    last = add(graph, network, input_name)
    graph("Identity", last, name=output)
    width = [module for module in network.modules() if isinstance(module, nn.Linear)][
        -1
    ].out_features
    graph.write(path, input_name, shape, {output: [shape[0], width]})


def add(graph: Graph, module: nn.Module, x: str) -> str:
    """The nodes of a module in eval mode. Returns the name of what it gives."""
    if isinstance(module, nn.Sequential):
        layers = list(module)
        index = 0
        while index < len(layers):
            layer = layers[index]
            following = layers[index + 1] if index + 1 < len(layers) else None
            if isinstance(layer, nn.Conv2d):
                folded = isinstance(following, nn.BatchNorm2d)
                x = _convolution(graph, layer, following if folded else None, x)
                index += folded
            else:
                x = add(graph, layer, x)
            index += 1
        return x
    if hasattr(module, "inner"):  # a Residual
        return graph("Relu", graph("Add", x, add(graph, module.inner, x)))
    if isinstance(module, nn.Conv2d):
        return _convolution(graph, module, None, x)
    if isinstance(module, nn.ReLU):
        return graph("Relu", x)
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        kernel, operator = (
            int(module.kernel_size),
            "MaxPool" if isinstance(module, nn.MaxPool2d) else "AveragePool",
        )  # type: ignore[arg-type]
        return graph(operator, x, kernel_shape=[kernel, kernel], strides=[kernel, kernel])
    if isinstance(module, nn.Flatten):
        return graph("Flatten", x)
    if isinstance(module, nn.Linear):
        return graph("Gemm", x, _array(module.weight), _array(module.bias), transB=1)
    raise TypeError(f"{type(module).__name__} has no ONNX form here")


def _convolution(graph: Graph, layer: nn.Conv2d, norm: nn.BatchNorm2d | None, x: str) -> str:
    weight = layer.weight.detach()
    bias = layer.bias.detach() if layer.bias is not None else torch.zeros(layer.out_channels)
    if norm is not None:
        variance = norm.running_var + norm.eps  # type: ignore[operator]
        scale = norm.weight.detach() / variance.sqrt()
        weight, bias = (
            weight * scale[:, None, None, None],
            (bias - norm.running_mean) * scale + norm.bias.detach(),
        )  # type: ignore[operator]
    sides = {
        "kernel_shape": list(layer.kernel_size),
        "strides": list(layer.stride),
        "dilations": list(layer.dilation),
    }
    pads = [*layer.padding, *layer.padding]
    return graph("Conv", x, _array(weight), _array(bias), pads=pads, **sides)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().numpy()
