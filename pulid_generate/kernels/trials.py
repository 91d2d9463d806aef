"""Trials of kernels against torch on the card that is to run them, before a picture depends on it:
a compiler's mistake for one kind of card must cost speed, and never a picture. And what is said
where a kernel fails its trial, or none can run.

Knows no kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

# what was computed, and what torch computes in float32
Pair = tuple[Tensor, Tensor]
# Largest distance over the largest number. Each side rounds once or a few times to its dtype; a
# wrong channel, token or angle is off by about 1.
TOLERANCES = {torch.bfloat16: 3e-2, torch.float16: 4e-3, torch.float32: 1e-5}

# lines to be said -> whether they have been
_notes: dict[str, bool] = {}


def passes(
    name: str, device: torch.device, dtype: torch.dtype, pairs: Callable[[], Iterable[Pair]]
) -> bool:
    """Whether a kernel gives what torch gives; if not, that is a note. name: of the kernel, for the
    note. dtype: a key of TOLERANCES, another one does not pass.
    """
    reason = _failure(dtype, pairs)
    if reason:
        note(f"{name}: torch's own operations run on {device}, because the kernel {reason}")
    return not reason


def _failure(dtype: torch.dtype, pairs: Callable[[], Iterable[Pair]]) -> str:
    if dtype not in TOLERANCES:
        return f"has no {dtype}"
    try:
        distances = [_distance(found, expected) for found, expected in pairs()]
    # whatever fails in somebody's installation: torch's operations draw the same picture
    except Exception as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"fails there: {line}"
    # a NaN is no distance
    if all(distance <= TOLERANCES[dtype] for distance in distances):
        return ""
    return f"gave other numbers there than torch (off by {max(distances):.2g} of the largest)"


def _distance(found: Tensor, expected: Tensor) -> float:
    distance = (found.float() - expected).abs().max()
    return float(distance / expected.abs().max().clamp_min(1.0))


def note(line: str) -> None:
    """Something the user should be told, once."""
    _notes.setdefault(line, False)


def take_notes() -> list[str]:
    """The lines that nobody has taken yet."""
    new = [line for line, said in _notes.items() if not said]
    _notes.update(dict.fromkeys(new, True))
    return new
