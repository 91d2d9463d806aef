"""Layers that a compiled graph calls as they are, found again by the address of their bytes.

Where no kernel widens a packed weight, its product is one operator of the graph: traced, the passes
that take the bytes apart would be thousands of nodes, and the memory that layers share, the weights
that they keep and 8-bit products have no place in a graph. An operator knows tensors alone, so that
all blocks of a model share a graph; which layer a tensor belongs to is remembered here.
"""

from __future__ import annotations

import weakref
from typing import Generic, TypeVar

from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.Module)


class LayersByAddress(Generic[Layer]):
    """Layers with a buffer `data`, by where it lies. A layer that is gone is forgotten."""

    def __init__(self) -> None:
        self._layers: weakref.WeakValueDictionary[int, Layer] = weakref.WeakValueDictionary()

    def remember(self, layer: Layer) -> None:
        """So that `find` gives it for its bytes."""
        self._layers[layer.get_buffer("data").data_ptr()] = layer

    def find(self, data: Tensor) -> Layer | None:
        """The layer of these bytes; None for one that was never remembered, or has moved."""
        layer = self._layers.get(data.data_ptr())
        if layer is None or layer.get_buffer("data").data_ptr() != data.data_ptr():
            return None
        return layer if layer.get_buffer("data").shape == data.shape else None
