"""Low-rank products on a model's linear layers, while it runs: y += weight * scale * (x A^T) B^T;
and the other forms of a LoRA beside them.

Forward hooks and not merged weights: most weights here are quantised, fp8, or widened per layer,
and merging would change their bits for good. Off again, the model is the same object with the same
bits. Knows any module with in_features and out_features; no file, no Flux.

Shapes: C inputs, R outputs, r the sum of the products' ranks.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pulid_generate.files.model import Model
from pulid_generate.lora.changes import Change, Decomposed, Matrix, Product
from pulid_generate.lora.decomposition import DecomposedLayer
from pulid_generate.lora.files import LoraFile, resolve

# holds (down, up) of a layer that has a LoRA on it, None if it has other changes alone
ATTRIBUTE = "low_rank"
# holds these
OTHERS = "lora_changes"


def linear_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """name -> (outputs, inputs) of every linear layer, quantised or not, also on meta."""
    return {
        name: (int(module.out_features), int(module.in_features))
        for name, module in model.named_modules()
        if hasattr(module, "in_features") and hasattr(module, "out_features")
    }


@contextlib.contextmanager
def attach_lora_files(
    model: nn.Module,
    kind: Model,
    loras: Iterable[tuple[LoraFile, float]],
    dtype: torch.dtype,
    device: torch.device | str,
) -> Iterator[None]:
    """As `attach_loras`, with whole files: each file's part for this kind of model, which may be
    none.

    Raises WeightsError for a file that does not fit the model, before anything is attached.
    """
    shapes = linear_shapes(model)
    resolved = [(resolve(lora, kind, shapes), weight) for lora, weight in loras]
    with attach_loras(model, resolved, dtype, device):
        yield


@contextlib.contextmanager
def attach_loras(
    model: nn.Module,
    loras: Sequence[tuple[Mapping[str, Change], float]],
    dtype: torch.dtype,
    device: torch.device | str,
) -> Iterator[None]:
    """Add the weighted sum of LoRAs to every forward of `model`; on leaving, the model is as it
    was.

    loras: (what `files.resolve` gives for this model, weight). A weight of 0 attaches nothing.
    dtype, device: of the model's activations, where the matrices are put at once. Works with the
    hooks of PuLID, of widening and of group offloading, in any order.
    """
    layers: dict[str, list[tuple[Change, float]]] = {}
    for changes, weight in loras:
        if not weight:
            continue
        for name, change in changes.items():
            layers.setdefault(name, []).append((change, weight))
    handles = []
    attached: list[nn.Module] = []
    try:
        for name, weighted in layers.items():
            layer = model.get_submodule(name)
            if ATTRIBUTE in layer.__dict__:
                raise RuntimeError(f"{name} has LoRAs on it already; give all of them in one call")
            products = [(one, weight) for one, weight in weighted if isinstance(one, Product)]
            others = [(one, weight) for one, weight in weighted if not isinstance(one, Product)]
            # plain attributes: not part of the state, and no group of an offloaded model moves them
            layer.__dict__[ATTRIBUTE] = low_rank(products, dtype, device) if products else None
            attached.append(layer)
            if not others:
                handles.append(layer.register_forward_hook(_add))
                continue
            layer.__dict__[OTHERS] = tuple(
                _ready(model, layer, change, weight, dtype, device) for change, weight in others
            )
            # first: while the layer still has the weight that it ran with
            handles.append(layer.register_forward_hook(_add_all, prepend=True))
        _forget_compiled(bool(attached))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer in attached:
            del layer.__dict__[ATTRIBUTE]
            layer.__dict__.pop(OTHERS, None)
        _forget_compiled(bool(attached))


def low_rank(
    products: Sequence[tuple[Product, float]], dtype: torch.dtype, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """The weighted sum of one layer's products: down (r, C) and up (R, r). Weights and scales go
    into up, in float32, rounded once.
    """
    downs, ups = [], []
    for product, weight in products:
        downs.append(product.down.to(device, dtype))
        ups.append(product.up.to(device).float() * (product.scale * weight))
    return torch.cat(downs), torch.cat(ups, dim=1).to(dtype)


def _ready(
    model: nn.Module,
    layer: nn.Module,
    change: Change,
    weight: float,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Matrix | DecomposedLayer:
    if isinstance(change, Decomposed):
        return DecomposedLayer.of(change, layer, model.get_submodule, dtype, device, weight)
    return change.ready(dtype, device, weight)


def _add(layer, arguments, output):
    # one function for all layers, the matrices on the layer: so torch.compile has one graph for all
    # blocks of a kind
    return output + _low_rank_of(layer, arguments, output)


def _low_rank_of(layer, arguments, output):
    down, up = getattr(layer, ATTRIBUTE)
    # the layer ran where its output is; under offloading its input may have come from elsewhere
    x = arguments[0].to(output.device)
    if down.device != output.device or down.dtype != x.dtype:
        down, up = down.to(output.device, x.dtype), up.to(output.device, x.dtype)
    return linear(linear(x, down), up).to(output.dtype)


def _add_all(layer, arguments, output):
    """As `_add`, with changes that are no low-rank product; each is of the layer as it is."""
    x, total = arguments[0].to(output.device), output
    if getattr(layer, ATTRIBUTE) is not None:
        total = total + _low_rank_of(layer, arguments, output)
    for change in getattr(layer, OTHERS):
        if isinstance(change, DecomposedLayer):
            added = change.added(layer, x, output)
        else:
            added = change.apply(x)
        total = total + added.to(output.dtype)
    return total


def _forget_compiled(changed: bool) -> None:
    """Drop compiled code: torch.compile does not notice that an inner layer has got or lost a hook,
    and would draw without the LoRA.
    """
    if changed and "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
