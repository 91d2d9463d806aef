"""Which blocks of a model stay on a device while the others pass through it. Pure numbers; imports
no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

# places on the device for the blocks that pass through: one computes while the next one arrives
BUFFERS = 2


def choose_resident(sizes: Sequence[int], budget: int) -> frozenset[int]:
    """The numbers of the blocks to keep on a device, so that they and the buffers of the others
    take at most `budget` bytes; empty if no block can stay.

    sizes: bytes of each block, in the order they run. The resident blocks stand evenly among the
    streamed ones: while they compute, the next block arrives.
    """
    total = len(sizes)
    for count in range(total, 0, -1):
        chosen = frozenset(
            index for index in range(total) if (index + 1) * count // total > index * count // total
        )
        if device_bytes(sizes, chosen) <= budget:
            return chosen
    return frozenset()


def device_bytes(sizes: Sequence[int], resident: Collection[int]) -> int:
    """Bytes that blocks of these sizes take on the device: the resident ones, and the buffers that
    the others pass through.
    """
    streamed = [size for index, size in enumerate(sizes) if index not in resident]
    buffers = min(BUFFERS, len(streamed)) * max(streamed, default=0)
    return sum(sizes[index] for index in resident) + buffers
