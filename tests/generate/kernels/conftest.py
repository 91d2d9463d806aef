"""Where kernels are tested: on a GPU if there is one, else on the CPU in Triton's interpreter.

TRITON_INTERPRET=1 would have to be set before anything imports triton, and would hold for the whole
process, for tests of torch.compile as well. Instead the compiled functions are exchanged for
interpreted ones while a test runs.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pulid_generate.kernels.availability import available


@pytest.fixture
def kernel_device(monkeypatch) -> torch.device:
    """The device for the tensors that a kernel gets."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        assert available("cuda") is None
        return torch.device("cuda")
    _interpret(monkeypatch)
    return torch.device("cpu")


def _interpret(monkeypatch) -> None:
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder
    from triton.runtime.jit import JITFunction

    from pulid_generate.kernels import block_steps, fp8, fp8_rows, ggml, identity, products

    for module in (tl, block_steps, ggml, fp8, fp8_rows, identity, products):
        for name, value in list(vars(module).items()):
            if isinstance(value, JITFunction):
                monkeypatch.setattr(module, name, InterpretedFunction(value.fn))
    # The interpreter exchanges the language's functions for its own and afterwards restores those
    # of the modules that the kernel names. tl.sum and the like reach this one, too.
    for module in (block_steps, ggml, fp8, fp8_rows, identity, products):
        monkeypatch.setattr(module, "core", tl.core, raising=False)

    _mend_bfloat16(monkeypatch, tl, InterpreterBuilder)


def _mend_bfloat16(monkeypatch, tl, builder) -> None:
    """The interpreter cuts bfloat16 off where GPUs round, and multiplies its bits as integers; it
    rounds e4m3 without a carry (127 becomes 64).
    """
    cast, dot, convert = builder.cast_impl, builder.create_dot, builder.create_fp_to_fp

    def rounding_cast(self, source, target):
        if source.dtype.scalar == tl.float32 and target.scalar == tl.bfloat16:
            numbers = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16()
            return type(source)(numbers.view(torch.uint16).numpy(), target.scalar)
        return cast(self, source, target)

    def carrying_conversion(self, source, target, rounding):
        if source.dtype.scalar == tl.float32 and target.scalar == tl.float8e4nv:
            numbers = torch.from_numpy(np.ascontiguousarray(source.data)).to(torch.float8_e4m3fn)
            return type(source)(numbers.view(torch.uint8).numpy(), target.scalar)
        return convert(self, source, target, rounding)

    def widening_dot(self, a, b, *arguments):
        if a.dtype.scalar == tl.bfloat16:
            a, b = (cast(self, operand, tl.float32) for operand in (a, b))
        return dot(self, a, b, *arguments)

    monkeypatch.setattr(builder, "cast_impl", rounding_cast)
    monkeypatch.setattr(builder, "create_dot", widening_dot)
    monkeypatch.setattr(builder, "create_fp_to_fp", carrying_conversion)
