"""Devices under torch's and sd-cli's names, and how much memory is free on them.

Knows no model. Source of sd-cli's names: leejet/stable-diffusion.cpp docs/backend.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil
import torch

from pulid_generate.errors import PlacementError, RequestError

CGROUP = Path("/sys/fs/cgroup")
CPU = torch.device("cpu")
# names of a kind of device -> torch's, where ROCm is "cuda"
KINDS = {
    "cuda": "cuda",
    "rocm": "cuda",
    "hip": "cuda",
    "metal": "mps",
    "mtl": "mps",
    "mps": "mps",
    "cpu": "cpu",
}
# kinds that sd-cli has and torch does not
NOT_IN_TORCH = ("vulkan", "opencl", "sycl", "cann", "musa", "webgpu", "rpc")


def find_device(name: str, flag: str = "device") -> torch.device:
    """The device of that name, torch's or sd-cli's (cuda0, metal, gpu), or the best one for "auto".

    flag: whose value the name is, for messages. Raises RequestError for what is no
    device, PlacementError for one that is not here.
    """
    usable = [kind for kind in ("cuda", "mps", "cpu") if _is_usable(kind)]
    text = name.strip().lower()
    if text in ("auto", "default"):
        return torch.device(usable[0])
    if text == "gpu" and usable[0] != "cpu":
        return torch.device(usable[0])
    choices = f"usable: {', '.join(device_names())}"
    if text == "disk":
        raise RequestError(
            f"{flag} {name}: weights can wait there (--params-backend), "
            f"a model cannot run there; {choices}"
        )
    match = re.fullmatch(r"([a-z]+?):?(\d*)", text)
    if match is None:
        raise RequestError(f"{flag} {name}: expected auto, cuda, cuda:N, mps or cpu; {choices}")
    kind = KINDS.get(match[1], "")
    if not kind and match[1] not in NOT_IN_TORCH:
        raise RequestError(f"{flag} {name}: expected auto, cuda, cuda:N, mps or cpu; {choices}")
    if kind not in usable:
        why = " (PyTorch has no such device)" if match[1] in NOT_IN_TORCH else ""
        raise PlacementError(f"{flag} {name}: not usable here{why}; {choices}")
    index = int(match[2] or 0)
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if index >= count:
        raise PlacementError(
            f"{flag} {name}: there are {count} {kind} devices, counted from 0; {choices}"
        )
    return torch.device(kind, index) if kind == "cuda" and match[2] else torch.device(kind)


def device_name(device: torch.device) -> str:
    """ "cuda:0" for any way of writing that device."""
    return f"cuda:{device.index or 0}" if device.type == "cuda" else device.type


def device_names() -> list[str]:
    """sd-cli's names of the devices that are usable here: cuda0, cuda1, metal, cpu."""
    names = []
    if _is_usable("cuda"):
        names += [f"cuda{index}" for index in range(torch.cuda.device_count())]
    if _is_usable("mps"):
        names.append("metal")
    return [*names, "cpu"]


def list_devices() -> list[str]:
    """A line for each device: its name, tabulator, what it is. As sd-cli's --list-devices."""
    described = {"cpu": "processor", "metal": "Apple GPU"}
    lines = []
    for name in device_names():
        if name in described:
            what = described[name]
        else:
            what = torch.cuda.get_device_name(int(name.removeprefix("cuda")))
        lines.append(f"{name}\t{what}")
    return lines


def _is_usable(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_available()
    if kind == "mps":
        return torch.backends.mps.is_available()
    return True


def available_on(devices: Iterable[torch.device]) -> dict[str, int]:
    """Free bytes of main memory ("cpu") and of each device, by device_name."""
    free = {"cpu": available_memory()}
    for device in devices:
        if device.type == "cuda":
            free[device_name(device)] = torch.cuda.mem_get_info(device)[0]
        elif device.type == "mps":
            # it shares main memory, of which Metal recommends a part
            left = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
            free["mps"] = max(0, left)
    return free


def give_back_memory() -> None:
    """Return what was freed to the system, or to the other models of a device: one stage's leavings
    are not the next one's peak.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
    if sys.platform == "linux":
        # glibc keeps freed small blocks; other C libraries have no such call
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def available_memory() -> int:
    """Bytes of main memory that can be taken now, in this container if it is one."""
    free = psutil.virtual_memory().available
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        cached = dict(line.split() for line in lines).get("inactive_file", 0)
    except (OSError, ValueError):
        # no cgroup v2, or no limit ("max")
        return free
    # pages of files that were read, such as memory-mapped weights, count as used and are given back
    # when they are needed
    return min(free, limit - used + int(cached))
