"""torch.compile for Flux's blocks, off unless asked for: two kinds of block, compiled once each,
whatever hangs on them.

Only the blocks' own forwards are compiled. Hooks stay outside the graphs, so another identity,
weight or region compiles nothing anew, and a skipped block is one that is not called. Knows nothing
of PuLID.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import torch

from pulid_generate.errors import PlacementError


def check_compiler(device: torch.device) -> None:
    """Raise PlacementError if torch.compile has nothing to generate code with on this device."""
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            raise PlacementError(
                "compile: torch.compile needs a C++ compiler on the CPU and found none; "
                "install g++, or leave --compile out"
            ) from None
    elif device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise PlacementError(
            "compile: torch.compile needs the package triton on a GPU; "
            "install it, or leave --compile out"
        )


@contextlib.contextmanager
def compile_blocks(transformer: Any) -> Iterator[None]:
    """Compile the block forwards of a diffusers Flux transformer, on first use; on leaving, the
    model is as it was.

    Results agree with the plain model's to rounding, not bit for bit. Raises PlacementError if
    there is no compiler.
    """
    check_compiler(transformer.device)
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    # diffusers' and accelerate's own hooks sit there, too
    before = [block.__dict__.get("forward") for block in blocks]
    for block in blocks:
        block.forward = torch.compile(block.forward)
    try:
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            if forward is None:
                del block.forward
            else:
                block.forward = forward
