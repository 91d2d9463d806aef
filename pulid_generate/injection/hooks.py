"""Where PuLID's layers meet Flux: hook points by block number, and the context manager that
attaches them.

Works on any diffusers FluxTransformer2DModel, this toolkit's or a stock pipeline's. Behaviour is
added by forward hooks, so leaving the context gives back the very same model. Knows nothing of
prompts, schedules or steps, nor of how a region was drawn.

Shapes: L image tokens, N identity tokens, C token width.

Source of the hook points: ToTheBeginning/PuLID 1aa2fc7, flux/model.py (pulid_double_interval,
pulid_single_interval).
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pulid_generate.errors import IdentityError
from pulid_generate.files.layouts import DOUBLE_INTERVAL, SINGLE_INTERVAL, hook_places
from pulid_generate.injection import host_caches
from pulid_generate.injection.adapter import PulidAdapter
from pulid_generate.injection.terms import Injection, Term

if TYPE_CHECKING:
    from pulid_extract.shared.embedding_file import Embedding


def hook_points(transformer: Any) -> list[nn.Module]:
    """The blocks that PuLID's layers follow, in layer order: double blocks 0, 2, .. then single
    blocks 0, 4, .. by block number.
    """
    return [
        *transformer.transformer_blocks[::DOUBLE_INTERVAL],
        *transformer.single_transformer_blocks[::SINGLE_INTERVAL],
    ]


def check_fit(
    adapter: PulidAdapter, dim: int, double: int, single: int, where: str = "the Flux model"
) -> None:
    """Raise IdentityError if the PuLID layers do not belong to a Flux of width `dim` with so many
    double and single blocks. where: that Flux, for the message.
    """
    if adapter.dim != dim:
        raise IdentityError(
            f"{adapter.source}: made for a Flux of width {adapter.dim}, {where} has {dim}; "
            "they do not belong together"
        )
    places = hook_places(double, single)
    if places != len(adapter):
        raise IdentityError(
            f"{adapter.source}: has {len(adapter)} pulid_ca layers, {where} ({double} double and "
            f"{single} single blocks) has {places} places for them; a pruned Flux cannot be used, "
            "its layers belong to other block numbers"
        )


@contextlib.contextmanager
def attach(transformer: Any) -> Iterator[Injection]:
    """Attach idle hooks to a diffusers Flux transformer and yield their state; on leaving, the
    model is as it was.

    A cache of diffusers that is on remembers the identity with the rest, forgets when what is added
    changes, and starts and ends empty. One that is turned on later, or that is not known, raises
    IdentityError.
    """
    injection = Injection()
    doubles = len(transformer.transformer_blocks[::DOUBLE_INTERVAL])

    def change_for(index: int):
        def change(output):
            if not injection.terms:
                return output
            # both Flux block kinds return (text, image)
            text_tokens, img_tokens = output
            return text_tokens, injection.add(img_tokens, index, double=index < doubles)

        return _outside_graphs(change)

    with contextlib.ExitStack() as stack:
        if host_caches.is_cached(transformer):
            stack.enter_context(_cached_with(transformer, injection))
        for index, block in enumerate(hook_points(transformer)):
            if host_caches.replaced(block):
                stack.callback(host_caches.change_computed(block, change_for(index)))
            else:
                hook = _hook(change_for(index))
                stack.callback(block.register_forward_hook(hook).remove)
        yield injection


def _outside_graphs(function: Any) -> Any:
    # Traced, every hook and every weight would be a graph of its own, past the compiler's limit of
    # 8. Whoever compiles has imported the compiler; nobody else waits 1.6 s for it here.
    return torch.compiler.disable(function) if "torch._dynamo" in sys.modules else function


def _hook(change: Any) -> Any:
    def hook(block, _arguments, output):
        if host_caches.replaced(block):
            raise IdentityError(
                "enable_cache was called while an identity was injected, which would be added to "
                "what the cache remembers; call it before inject"
            )
        return change(output)

    return _outside_graphs(hook)


@contextlib.contextmanager
def _cached_with(transformer: Any, injection: Injection) -> Iterator[None]:
    """What diffusers' caches remember is of these people, as they are now."""
    host_caches.forget(transformer)
    seen: list[Hashable] = [injection.state()]

    def forget_others(*_: Any) -> None:
        if injection.state() != seen[0]:
            host_caches.forget(transformer)
            seen[0] = injection.state()

    handle = transformer.register_forward_pre_hook(forget_others)
    try:
        yield
    finally:
        handle.remove()
        host_caches.forget(transformer)


@contextlib.contextmanager
def inject(
    transformer: Any,
    adapter: PulidAdapter,
    identity: Embedding | np.ndarray | Tensor,
    id_weight: float = 1.0,
    *,
    region: np.ndarray | Tensor | None = None,
) -> Iterator[Injection]:
    """Draw this person: `with inject(pipe.transformer, adapter, identity, id_weight=1.0):
    pipe(...)`.

    transformer: a diffusers FluxTransformer2DModel or ours, of any width. identity: an Embedding,
    or tokens (N, C). region: None for the whole picture, or (L,) from 0 to 1, row by row of the
    token grid: `pulid_generate.request.people.regions` makes them. Yields the Injection, whose
    `weight` and `terms` may be changed between calls. Raises IdentityError if the parts do not fit
    together.
    """
    if not math.isfinite(id_weight):
        raise IdentityError(f"id_weight {id_weight}: expected a finite number")
    doubles, singles = transformer.transformer_blocks, transformer.single_transformer_blocks
    check_fit(adapter, transformer.x_embedder.out_features, len(doubles), len(singles))
    tokens: Any = getattr(identity, "tokens", identity)
    source = getattr(identity, "source", "identity")
    # under sequential offload the weights are on meta between forwards; the layers follow the
    # tokens' device in any case
    device = "cpu" if transformer.device.type == "meta" else transformer.device
    with attach(transformer) as injection:
        layers = adapter.bind(tokens, transformer.dtype, device, where=source)
        injection.terms = (Term(layers, region=region),)
        injection.weight = id_weight
        yield injection
