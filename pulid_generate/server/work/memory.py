"""How much memory this process has in use. Imports no torch."""

from __future__ import annotations

import sys


def memory_in_use() -> dict[str, int]:
    """device -> bytes: resident ones of "cpu", allocated ones of "cuda" where that is in use."""
    import psutil

    found = {"cpu": int(psutil.Process().memory_info().rss)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found["cuda"] = int(torch.cuda.memory_allocated())
    return found
