"""diffusers' step caches on a model that an identity is added to: where the identity goes when a
cache stands in for a block, and when what a cache remembers is out of date.

`enable_cache` replaces forwards: of blocks (FirstBlockCache, MagCache, SeaCache, TaylorSeer where
it is told so) or of what is inside them (FasterCache, PyramidAttentionBroadcast, TaylorSeer). A
block whose forward was replaced gives, at a step that is skipped, what it gave before, and the
identity is in that already. So the identity is added to what the block itself computes, below what
was put in its place: it is there once at a step that is computed, and remembered with the rest.
Knows nothing of PuLID.

Source: huggingface/diffusers 0.42.1 src/diffusers/hooks/hooks.py (`HookRegistry`, `StateManager`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from pulid_generate.errors import IdentityError

# of a block: what it computed -> what it hands on
Change = Callable[[Any], Any]
# What diffusers calls its registry on a module
REGISTRY = "_diffusers_hook"
# Those whose steps hold an identity once, by test
KNOWN = (
    "FirstBlockCacheConfig",
    "MagCacheConfig",
    "SeaCacheConfig",
    "TaylorSeerCacheConfig",
    "PyramidAttentionBroadcastConfig",
    "FasterCacheConfig",
    "TextKVCacheConfig",
)


def replaced(block: nn.Module) -> bool:
    """Whether a cache of diffusers decides if this block computes."""
    registry = block.__dict__.get(REGISTRY)
    return registry is not None and any(
        hasattr(hook, "new_forward") for hook in registry.hooks.values()
    )


def change_computed(block: nn.Module, change: Change) -> Callable[[], None]:
    """Apply `change` to the output of a `replaced` block where it computes, and nowhere else.
    Returns what undoes it, whatever was put on the block or taken off since.
    """
    first = block.__dict__[REGISTRY]._fn_refs[0]
    computes = getattr(first, _below(first))

    def changed(*arguments: Any, **named: Any) -> Any:
        return change(computes(*arguments, **named))

    setattr(first, _below(first), changed)

    def undo() -> None:
        for reference in block.__dict__[REGISTRY]._fn_refs:
            for name in ("forward", "original_forward"):
                if getattr(reference, name) is changed:
                    setattr(reference, name, computes)
        # the caches are off by now
        if block.__dict__.get("forward") is changed:
            block.forward = computes

    return undo


def forget(transformer: nn.Module) -> None:
    """Drop what the caches remember, as before the first step. FasterCache keeps its own: it holds
    attentions, to which nothing was added, and cannot begin in the middle.
    """
    for hook in _hooks(transformer):
        for held in vars(hook).values():
            states = getattr(held, "_state_cache", None)
            if isinstance(states, dict):
                states.clear()
        if type(hook).__name__ == "PyramidAttentionBroadcastHook":
            hook.state.reset()


def is_cached(transformer: nn.Module) -> bool:
    """Whether a cache of diffusers is on, by `enable_cache` or by a function of its own (such as
    `apply_first_block_cache`). Raises IdentityError for one that was never tried with an identity.
    """
    config = getattr(transformer, "_cache_config", None)
    if config is not None and type(config).__name__ not in KNOWN:
        raise IdentityError(
            f"{type(config).__name__}: where an identity would be in its steps is not known; call "
            f"disable_cache, or take one of {', '.join(KNOWN)}"
        )
    if config is not None:
        return True
    return any(hasattr(hook, "new_forward") for hook in _hooks(transformer))


def _hooks(transformer: nn.Module) -> Iterator[Any]:
    for module in transformer.modules():
        registry = module.__dict__.get(REGISTRY)
        if registry is not None:
            yield from registry.hooks.values()


def _below(reference: Any) -> str:
    """The attribute with the forward that stood there before this hook came."""
    return "original_forward" if reference.original_forward is not None else "forward"
