"""Blocks of a model that wait in main memory and pass through the device one after the other, while
the blocks that fit stay there.

A forward pre-hook of each streamed block waits for its weights, a forward hook starts the copy of
the next one, which runs beside the computation that was queued before it. Two buffers on the device
and two pinned ones in main memory serve all blocks, so the cost in memory is known beforehand.
Knows parameters and buffers, and no model; a hook that reads only a block's output (PuLID's) is not
affected.

Why not diffusers' apply_group_offloading (0.42.1, hooks/group_offloading.py): with a stream it
never moves the buffers of a group's modules back (_offload_to_memory restores parameters only), so
quantised weights, which are buffers here, would pile up on the device; it pins a second copy of
every weight, mapped files included; and it cannot keep some blocks on the device.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pulid_generate.memory.residency import BUFFERS

# bytes; what CUDA's own allocator aligns to
ALIGNMENT = 256


def stream_blocks(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    device: torch.device,
    resident: Collection[int] = (),
) -> nn.Module:
    """Run `model` on `device`, with all blocks but those numbered in `resident` left where they are
    between their forwards.

    blocks: modules of `model` in the order they run, none inside another, no tensor shared with
    anything outside its block. Everything else of the model moves to the device. Their weights must
    not be replaced afterwards; hooks may be added. Returns `model`.
    """
    streamed = [block for index, block in enumerate(blocks) if index not in resident]
    waiting = {id(tensor) for block in streamed for tensor in _tensors(block)}
    for tensor in _tensors(model):
        if id(tensor) not in waiting:
            tensor.data = tensor.data.to(device)
    if streamed:
        Stream(streamed, device, CudaCopies(device) if device.type == "cuda" else None)
    return model


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a transformer in the order they are defined: the members of its
    outermost lists of modules.
    """

    def walk(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            yield from child if isinstance(child, nn.ModuleList) else walk(child)

    return list(walk(model))


@dataclass(eq=False)
class _Slot:
    """One place on the device, and the pinned memory from which it is filled."""

    # bytes on the device, and in main memory
    place: Tensor
    pinned: Tensor | None = None
    # event of the last copy into it
    arrived: Any = None
    # event of the last computation that read it
    done: Any = None


class CudaCopies:
    """Copies that run beside the computation: what CUDA gives for it, and nothing else of it."""

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def pinned(self, size: int) -> Tensor:
        """Bytes of main memory that the device can read by itself."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def copy(self, place: Tensor, pinned: Tensor, after: Any) -> Any:
        """Copy once the computation `after` is done; returns an event, at once."""
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(after)
            place.copy_(pinned, non_blocking=True)
            # the last copy may still run when the model is freed
            place.record_stream(self.stream)
            return self.stream.record_event()

    def hold_computation(self, copy: Any) -> None:
        """What is computed from now on waits for that copy."""
        torch.cuda.current_stream(self.device).wait_event(copy)

    def computed(self) -> Any:
        """An event behind everything that was queued for computation so far."""
        return torch.cuda.current_stream(self.device).record_event()

    def finish(self, copy: Any) -> None:
        """Wait here for that copy."""
        copy.synchronize()


class Stream:
    """The blocks that pass through the device, and where each stands."""

    def __init__(
        self, blocks: Sequence[nn.Module], device: torch.device, copies: CudaCopies | None = None
    ):
        """copies: None copies in place, where a device has no streams."""
        self.copies = copies
        # the tensors themselves, and what each holds between forwards
        self.tensors = [_tensors(block) for block in blocks]
        self.stored = [[tensor.data for tensor in tensors] for tensors in self.tensors]
        largest = max(sum(map(_aligned_bytes, stored)) for stored in self.stored)
        self.slots: list[_Slot] = []
        for _ in range(min(BUFFERS, len(blocks))):
            slot = _Slot(torch.empty(largest, dtype=torch.uint8, device=device))
            if copies:
                slot.pinned = copies.pinned(largest)
                # the place may be memory that queued computations still read
                slot.done = copies.computed()
            self.slots.append(slot)
        # block number -> where its weights are, or are arriving
        self.loaded: dict[int, _Slot] = {}
        for index, block in enumerate(blocks):
            block.register_forward_pre_hook(
                lambda _block, _arguments, index=index: self.enter(index)
            )
            block.register_forward_hook(
                lambda _block, _arguments, _output, index=index: self.leave(index), always_call=True
            )

    def enter(self, index: int) -> None:
        """Put the block's weights in place. They are normally on their way already."""
        slot = self.loaded.get(index) or self.fetch(index)
        if self.copies:
            self.copies.hold_computation(slot.arrived)
        views = _views(slot.place, self.stored[index])
        for tensor, view in zip(self.tensors[index], views, strict=True):
            tensor.data = view

    def leave(self, index: int) -> None:
        """Take the weights off, also after an exception, and start the next block's copy."""
        for tensor, data in zip(self.tensors[index], self.stored[index], strict=True):
            tensor.data = data
        slot = self.loaded.pop(index, None)
        if slot is not None and self.copies:
            slot.done = self.copies.computed()
        # after the last one the next step begins
        following = (index + 1) % len(self.stored)
        if following not in self.loaded:
            self.fetch(following)

    def fetch(self, index: int) -> _Slot:
        """Start copying a block's weights into a slot that no other block stands in, the one
        longest unused.
        """
        taken = [id(slot) for slot in self.loaded.values()]
        slot = next((slot for slot in self.slots if id(slot) not in taken), None)
        if slot is None:
            # a block whose forward was left out never gave its slot back
            slot = self.loaded.pop(next(iter(self.loaded)))
        self.slots.remove(slot)
        self.slots.append(slot)
        self.loaded[index] = slot
        stored = self.stored[index]
        if self.copies is None or slot.pinned is None:
            _copy(stored, slot.place)
            return slot
        if slot.arrived is not None:
            # until then the device still reads the pinned memory
            self.copies.finish(slot.arrived)
        _copy(stored, slot.pinned)
        slot.arrived = self.copies.copy(slot.place, slot.pinned, slot.done)
        return slot


def _tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, each once."""
    return [*module.parameters(), *module.buffers()]


def _aligned_bytes(data: Tensor) -> int:
    return math.ceil(data.nbytes / ALIGNMENT) * ALIGNMENT


def _copy(stored: Sequence[Tensor], place: Tensor) -> None:
    for view, data in zip(_views(place, stored), stored, strict=True):
        view.copy_(data)


def _views(place: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of the shapes and dtypes of `like`, one after the other in the bytes of `place`."""
    views = []
    start = 0
    for data in like:
        own_bytes = place[start : start + data.nbytes]
        views.append(own_bytes.view(data.dtype).view(data.shape))
        start += _aligned_bytes(data)
    return views
