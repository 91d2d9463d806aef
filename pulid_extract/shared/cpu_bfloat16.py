"""Whether this processor multiplies bfloat16 faster than float32. For both stages: knows torch, and
no model.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch

# Instructions that multiply bfloat16, on AMD and Intel, Intel, and ARM; named so by torch and by
# Linux
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")
# what oneDNN can be held back to, by its variable, that has none of them
ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
WITHOUT_BFLOAT16 = (
    *("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"),
    *("AVX512_CORE", "AVX512_CORE_VNNI"),
)
CPU_INFO = Path("/proc/cpuinfo")


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16, and torch's library for
    them may use these. Without, such products take several times as long as float32's.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    for variable in ISA_VARIABLES:
        if os.environ.get(variable, "").upper() in WITHOUT_BFLOAT16:
            return False
    found = _instructions()
    return any(name in found for name in BFLOAT16_INSTRUCTIONS)


def _instructions() -> set[str]:
    """What torch says of the processor; an older torch says nothing, Linux does."""
    if hasattr(torch.cpu, "get_capabilities"):
        return {name for name, has in torch.cpu.get_capabilities().items() if has is True}
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for line in CPU_INFO.read_text().splitlines():
            name, _, flags = line.partition(":")
            if name.strip() in ("flags", "Features"):
                found.update(flags.split())
    return found
