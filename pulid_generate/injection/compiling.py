"""torch.compile for Flux's blocks, off unless asked for: two kinds of block, compiled once each,
whatever hangs on them.

Only the blocks' own forwards are compiled. Hooks stay outside the graphs, so another identity,
weight or region compiles nothing anew, and a skipped block is one that is not called. Knows nothing
of PuLID.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pulid_extract.shared.cache_folder import FOLDER_VARIABLE as CACHE_VARIABLE
from pulid_extract.shared.cache_folder import default_folder
from pulid_generate.errors import OutputError, PlacementError
from pulid_generate.packed.layers import show_to_graphs

# in the cache folder
COMPILED = "compiled"
# of torch's compiler; Triton's files lie below it
FOLDER_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# Graphs of one kind of block. torch's 8 are for code that should not change; blocks of a GGUF may
# differ in the types of their matrices, and in which of their layers have a LoRA.
MOST_GRAPHS = 64


def check_compiler(device: torch.device, folder: Path | None = None) -> None:
    """Raise PlacementError if torch.compile has nothing to generate code with on this device.

    folder: where compiled code is kept for the next run; None leaves it to torch.
    """
    # before torch's compiler is asked anything, for then it chooses a folder
    _keep_in(folder)
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
def naming_full_disk() -> Iterator[None]:
    """While blocks run that are compiled on first use: code that cannot be written is an
    OutputError.
    """
    try:
        yield
    except RuntimeError as error:
        # torch's compiler wraps what went wrong in it
        inner = getattr(error, "inner_exception", None)
        if not isinstance(inner, OSError):
            raise
        where = os.environ.get(FOLDER_VARIABLE, "torch's cache")
        raise OutputError(
            f"{where}: compiled code cannot be written ({inner.strerror or inner}); make room, "
            f"name another folder by {CACHE_VARIABLE}, or leave --compile out"
        ) from None


@contextlib.contextmanager
def compile_blocks(transformer: Any, folder: Path | None = None) -> Iterator[None]:
    """Compile the block forwards of a diffusers Flux transformer, on first use; on leaving, the
    model is as it was.

    folder: where compiled code is kept for the next run; None leaves it to torch. Results agree
    with the plain model's to rounding, not bit for bit. Raises PlacementError if there is no
    compiler, OutputError for code that cannot be written.
    """
    check_compiler(transformer.device, folder)
    show_to_graphs(transformer)
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    # diffusers' and accelerate's own hooks sit there, too
    before = [block.__dict__.get("forward") for block in blocks]
    for block in blocks:
        block.forward = torch.compile(block.forward)
    # torch has imported it by now
    config = torch._dynamo.config
    limit, skip = config.recompile_limit, config.skip_nnmodule_hook_guards
    config.recompile_limit = max(limit, MOST_GRAPHS)
    # A LoRA hangs on some layers of some blocks. By default a graph traced for a block without it
    # serves one with it, and the LoRA is lost.
    config.skip_nnmodule_hook_guards = False
    try:
        with naming_full_disk():
            yield
    finally:
        config.recompile_limit, config.skip_nnmodule_hook_guards = limit, skip
        for block, forward in zip(blocks, before, strict=True):
            if forward is None:
                del block.forward
            else:
                block.forward = forward


def _keep_in(folder: Path | None) -> None:
    """A folder that the user has named to torch stays, and so does torch's own choice where ours
    cannot be made: code is only compiled anew.
    """
    if folder is None or FOLDER_VARIABLE in os.environ:
        return
    with contextlib.suppress(OSError):
        # what lies there is run: for its owner alone
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ[FOLDER_VARIABLE] = str(folder)


def compiled_folder() -> Path | None:
    """Where compiled blocks are kept for the next run; None where nothing is to be kept."""
    off = os.environ.get("PULID_NO_CACHE", "").lower() not in ("", "0", "false", "no", "off")
    return None if off else default_folder() / COMPILED
