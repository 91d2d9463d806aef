"""Tensors of a mapped file to a GPU, with no copy of them in main memory: slice by slice through
two small pinned buffers, one of which is filled from the file while the card reads the other. A
tensor that is to have another dtype is converted there.

Knows bytes, and no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pulid_generate.memory.streaming import CudaCopies

SLICE = 1 << 25  # bytes of each buffer
# smaller tensors are not worth an event
SMALLEST = 1 << 20
BUFFERS = 2


class Upload:
    """The way to one device, for as long as a file is read."""

    def __init__(self, device: torch.device, copies: CudaCopies | None):
        """copies: None moves every tensor in one piece, where a device has no streams."""
        self.device, self._copies = device, copies
        # pinned memory, and the copy that last read it; the one longest unused first
        self._buffers: list[tuple[Tensor, Any]] = []
        if copies is not None:
            self._buffers = [(copies.pinned(SLICE), None) for _ in range(BUFFERS)]

    def move(self, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The same numbers on the device, contiguous where they are copied. tensor: on the CPU.
        dtype: None keeps the tensor's.
        """
        copies = self._copies
        if copies is None or tensor.nbytes < SMALLEST or not tensor.is_contiguous():
            # cast here: not every device has the dtypes of files
            return tensor.to(dtype or tensor.dtype).to(self.device)
        out = torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device=self.device)
        numbers = SLICE // tensor.itemsize
        places = out.view(-1).split(numbers)
        for part, place in zip(tensor.view(-1).split(numbers), places, strict=True):
            if out.dtype == tensor.dtype:
                arrived = self._copy(part, place, copies)
                continue
            raw = torch.empty_like(part, device=self.device)
            arrived = self._copy(part, raw, copies)
            copies.hold_computation(arrived)
            place.copy_(raw)
        # copies arrive in their order
        copies.hold_computation(arrived)
        return out

    def _copy(self, part: Tensor, place: Tensor, copies: CudaCopies) -> Any:
        buffer, read = self._buffers.pop(0)
        if read is not None:
            # until then the card still reads the buffer
            copies.finish(read)
        staged = buffer[: part.nbytes]
        staged.copy_(part.view(torch.uint8))
        # the place may be memory that queued computations still use
        arrived = copies.copy(place.view(torch.uint8), staged, copies.computed())
        self._buffers.append((buffer, arrived))
        return arrived

    def finish(self) -> None:
        """Wait until the buffers are read."""
        for _, read in self._buffers:
            if self._copies is not None and read is not None:
                self._copies.finish(read)
        self._buffers = []


@contextmanager
def upload_to(device: torch.device) -> Iterator[Upload]:
    """The way to a device. Where there is no memory to be pinned, tensors go in one piece."""
    upload = _upload(device)
    try:
        yield upload
    finally:
        upload.finish()


def _upload(device: torch.device) -> Upload:
    if device.type != "cuda":
        return Upload(device, None)
    try:
        return Upload(device, CudaCopies(device))
    # pinned memory has limits of its own
    except RuntimeError:
        return Upload(device, None)
