"""CUDA graphs on a CPU: torch's operations, written down with the tensors they read and write, and
done again on these very tensors. What Python decides meanwhile stays as it was: a stale tensor or
number shows in the result.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Writing(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations: list[tuple] = []

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        out = operation(*arguments, **(named or {}))
        self.operations.append((operation, arguments, named or {}, out))
        return out


def tensors_of(result) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


class Tape:
    """A Recorder. Results of one recording are rubbish once another one has replayed, as they may
    be where recordings share their memory. spoil: changes what a replay gives.
    """

    def __init__(self, spoil: Callable[[Tensor], None] = lambda out: None):
        self.spoil = spoil
        self.log: list[str] = []
        self.results: list[Tensor] = []

    def warm_up(self, compute):
        self.log.append("warm up")
        return compute()

    def record(self, compute, *, first):
        self.log.append("record first" if first else "record")
        with _Writing() as writing:
            out = compute()
        # a graph is recorded without being run: nothing is there until the first replay
        out.fill_(float("nan"))
        self.results.append(out)

        def replay():
            self.log.append("replay")
            for other in self.results:
                if other is not out:
                    other.fill_(float("nan"))
            for operation, arguments, named, written in writing.operations:
                found = operation(*arguments, **named)
                for old, new in zip(tensors_of(written), tensors_of(found), strict=True):
                    if old is not new and old.data_ptr() != new.data_ptr():
                        old.copy_(new)
            self.spoil(out)

        return replay, out

    def wait(self):
        self.log.append("wait")


def no_recorder():
    """Where nothing may be recorded."""
    raise AssertionError("something was recorded")


def same(found: Tensor, expected: Tensor) -> bool:
    """Bit for bit."""
    return torch.equal(found.view(torch.uint8), expected.view(torch.uint8))
