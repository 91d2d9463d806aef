"""TODO"""

from __future__ import annotations

from collections.abc import Collection, Sequence

BUFFERS = 2  # blocks on their way through a device; streaming.SLOTS


def choose_resident(sizes: Sequence[int], budget: int) -> frozenset[int]:
    """Which blocks to keep on a device, so that they and the buffers of the others take at most
    `budget` bytes; {} if no block can stay.

    The resident blocks stand evenly among the streamed ones: while they compute, the next block
    arrives.
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
    return sum(sizes[index] for index in resident) + min(BUFFERS, len(streamed)) * max(
        streamed, default=0
    )
