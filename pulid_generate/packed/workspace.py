"""Memory that is written again and again, so that the operating system hands its pages out once.

A fresh tensor of some megabytes costs more to obtain (a page fault per 4 KB) than a pass of
arithmetic over it. Knows bytes; nothing of what they mean.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor


class Workspace:
    """Named buffers that grow to the largest size asked for. For one thread at a time."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.device], Tensor] = {}

    def take(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """An uninitialised tensor of this shape and dtype, valid until the same name is taken
        again.
        """
        key = (name, torch.device(device))
        size = prod(shape) * dtype.itemsize
        if key not in self._buffers or self._buffers[key].numel() < size:
            # first give back, then ask
            self._buffers.pop(key, None)
            # made in inference mode, it could not be written to outside
            with torch.inference_mode(False):
                self._buffers[key] = torch.empty(size, dtype=torch.uint8, device=device)
        return self._buffers[key][:size].view(dtype).view(shape)

    def nbytes(self) -> int:
        """Bytes held."""
        return sum(buffer.numel() for buffer in self._buffers.values())


def may_reuse(x: Tensor) -> bool:
    """Whether a layer with this input may widen its weight into a workspace.

    Only on a CPU, where a fresh page costs as much as widening, and only in passes that nothing
    looks back at: not for gradients, not while torch.compile traces.
    """
    return x.device.type == "cpu" and not x.requires_grad and not torch.compiler.is_compiling()
