"""Where models run and in what arithmetic, and how much main memory there is. Knows devices; knows nothing of models or files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from pulid_generate.errors import RequestError

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Placement:
    """Where the models run, and in what arithmetic.

    offload: keep Flux's and the text encoders' weights in main memory and bring each layer to the device while it runs.
    """

    device: torch.device
    text_device: torch.device
    vae_device: torch.device
    dtype: torch.dtype
    offload: bool = False

    @classmethod
    def choose(
        cls,
        device: str = "auto",
        dtype: str = "auto",
        *,
        clip_on_cpu: bool = False,
        vae_on_cpu: bool = False,
        offload: bool = False,
    ) -> Placement:
        """device: "auto", "cuda", "cuda:1", "mps" or "cpu". dtype: "auto" or a torch dtype's name. Raises RequestError."""
        main = find_device(device)
        cpu = torch.device("cpu")
        # bfloat16 matrix products are several times slower than float32 ones on most CPUs, and less exact
        kind = dtype if dtype != "auto" else "float32" if main.type == "cpu" else "bfloat16"
        text = cpu if clip_on_cpu else main
        return cls(main, text, cpu if vae_on_cpu else main, getattr(torch, kind), offload and main.type != "cpu")

    def dtype_on(self, device: torch.device) -> torch.dtype:
        """The arithmetic of a model that runs on `device`: a CPU beside a GPU computes in float32."""
        return torch.float32 if device.type == "cpu" != self.device.type else self.dtype

    def storage(self, device: torch.device) -> torch.device:
        """Where the weights of a model that runs on `device` are loaded to."""
        return torch.device("cpu") if self.offload else device


def find_device(name: str) -> torch.device:
    """The device of that name, or the best one there is for "auto". Raises RequestError for one that is not usable here."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [kind for kind, is_there in there.items() if is_there]
    if name == "auto":
        return torch.device(usable[0])
    if name.split(":")[0] not in usable:
        raise RequestError(f"device {name}: not usable here; usable: {', '.join(usable)}")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RequestError(f"device {name}: expected auto, cuda, cuda:N, mps or cpu") from None
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count:
        raise RequestError(f"device {name}: there are {count} {device.type} devices, counted from 0")
    return device


def available_memory() -> int:
    """Bytes of main memory that can be taken now, in this container if it is one."""
    free = psutil.virtual_memory().available
    try:
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        cached = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines()).get("inactive_file", 0)
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        return free
    # pages of files that were read, such as memory-mapped weights, count as used and are given back when they are needed
    return min(free, limit - used + int(cached))
