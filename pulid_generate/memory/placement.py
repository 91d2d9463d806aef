"""Where models run, where their weights wait, and in what arithmetic; and how much memory there is. Knows devices, and no model or file.

The assignments are sd-cli's: "diffusion=cuda0,te=cpu,vae=cpu", with its names of modules and devices and its precedence.
Source: stable-diffusion.cpp docs/backend.md and ggml_extend_backend.cpp (sd_parse_backend_assignment), near 97d29908.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from pulid_generate.errors import RequestError

CGROUP = Path("/sys/fs/cgroup")
CPU = torch.device("cpu")
GIB = 2**30

# What sd-cli calls the parts of a generation, hyphens and underscores aside. "te" is CLIP and T5 together: it has no name for one of them.
MODULES = {
    "diffusion": ("diffusion", "model", "unet", "dit"),
    "te": ("te", "clip", "text", "textencoder", "textencoders", "conditioner", "cond", "llm", "t5", "t5xxl"),
    "vae": ("vae", "firststage", "autoencoder", "tae"),
}
EVERY = ("all", "default", "*")
# sd-cli's modules that Flux with PuLID does not have: an assignment to them is accepted, and has nothing to place
ABSENT = re.compile(
    "clipvision|vision|controlnet|control|photomaker|photomakerid|pmid|photo|upscaler|esrgan|hires|detector|adetailer|yolo"
)
KINDS = {
    "cuda": "cuda",
    "rocm": "cuda",
    "hip": "cuda",
    "metal": "mps",
    "mtl": "mps",
    "mps": "mps",
    "cpu": "cpu",
}  # torch: ROCm is "cuda"
NOT_IN_TORCH = ("vulkan", "opencl", "sycl", "cann", "musa", "webgpu", "rpc")


@dataclass(frozen=True)
class Placement:
    """Where the models run, and in what arithmetic.

    offload: the modules ("diffusion", "te") whose weights stay in main memory, a block on the device only while it runs.
    max_vram: GiB that may be used, by device name ("cuda:0") or "" for every device; negative: GiB to leave free.
    """

    device: torch.device
    text_device: torch.device
    vae_device: torch.device
    dtype: torch.dtype
    offload: frozenset[str] = frozenset()
    max_vram: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def choose(
        cls,
        device: str = "auto",
        dtype: str = "auto",
        *,
        backend: str | None = None,
        params_backend: str | None = None,
        clip_on_cpu: bool = False,
        vae_on_cpu: bool = False,
        offload: bool = False,
        max_vram: str | float | None = None,
    ) -> Placement:
        """device: "auto", "cuda", "cuda:1", "mps" or "cpu". dtype: "auto" or a torch dtype's name. The rest as sd-cli's flags.

        As there, clip_on_cpu, vae_on_cpu and offload stand for te=cpu, vae=cpu and params *=cpu, and the other assignments of a module win
        over them. Raises RequestError for a module or device that there is not.
        """
        runs = {"te": "cpu"} if clip_on_cpu else {}
        runs |= {"vae": "cpu"} if vae_on_cpu else {}
        runs |= parse_assignment("backend", backend)
        fallback = runs.get("") or device
        where = {
            module: find_device(runs.get(module, fallback), "backend" if {module, ""} & set(runs) else "device")
            for module in MODULES
        }
        waits = ({"": "cpu"} if offload else {}) | parse_assignment("params-backend", params_backend)
        for name in waits.values():
            _check_waiting(name)
        main = where["diffusion"]
        # bfloat16 matrix products are several times slower than float32 ones on most CPUs, and less exact
        kind = dtype if dtype != "auto" else "float32" if main.type == "cpu" else "bfloat16"
        offloaded = frozenset(
            module
            for module in ("diffusion", "te")
            if _in_main_memory(waits.get(module, waits.get("", ""))) and where[module] != CPU
        )
        return cls(main, where["te"], where["vae"], getattr(torch, kind), offloaded, parse_budgets(max_vram))

    def dtype_on(self, device: torch.device) -> torch.dtype:
        """The arithmetic of a model that runs on `device`: a CPU beside a GPU computes in float32, a GPU beside a CPU in bfloat16."""
        if device.type == self.device.type or self.device.type != "cpu" != device.type:
            return self.dtype
        return torch.float32 if device.type == "cpu" else torch.bfloat16

    def streams(self, module: str) -> bool:
        """Whether the weights of "diffusion" or "te" may wait in main memory: they were sent there, or their device has a limit."""
        device = self.device if module == "diffusion" else self.text_device
        return module in self.offload or (device != CPU and self._limit(device) is not None)

    def storage(self, device: torch.device, module: str = "diffusion") -> torch.device:
        """Where the weights of a model that runs on `device` are loaded to."""
        return CPU if self.streams(module) else device

    def usable(self, device: torch.device, free: int) -> int:
        """Bytes of a device that may be taken, where `free` are free."""
        limit = self._limit(device)
        if limit is None:
            return free
        return min(free, int(limit * GIB)) if limit > 0 else max(0, free + int(limit * GIB))

    def _limit(self, device: torch.device) -> float | None:
        """GiB; sd-cli's 0 is no limit."""
        if device == CPU:
            return None
        return self.max_vram.get(device_name(device), self.max_vram.get("")) or None


def parse_assignment(flag: str, text: str | None) -> dict[str, str]:
    """{"diffusion": "cuda0", ..} of "diffusion=cuda0,te=cpu"; a device alone, or of all, default or *, stands under "". Raises RequestError.

    Modules that do not exist here are left out.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in (text or "").split(","))):
        name, equals, value = (word.strip() for word in part.partition("="))
        name, value = (name.lower(), value) if equals else ("*", name)
        if not name or not value:
            raise RequestError(f"{flag} {part}: expected MODULE=DEVICE, such as te=cpu")
        if "&" in value:
            raise RequestError(f"{flag} {part}: a model runs on one device here; name one of them")
        plain = re.sub("[-_]", "", name)
        if name in EVERY:
            found[""] = value
        elif not ABSENT.fullmatch(plain):
            module = next((module for module, names in MODULES.items() if plain in names), None)
            if module is None:
                raise RequestError(f"{flag} {part}: there is no module {name!r}; known: {', '.join(MODULES)}, all")
            found[module] = value
    return found


def parse_budgets(text: str | float | None) -> dict[str, float]:
    """GiB by device of sd-cli's --max-vram: "6", "cuda0=6,cuda1=2", or a number; "" is every device. Raises RequestError."""
    if text is None or text == "":
        return {}
    found: dict[str, float] = {}
    for part in str(text).split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        try:
            number = float(value if equals else name)
            if not abs(number) < float("inf"):
                raise ValueError
        except ValueError:
            raise RequestError(f"max-vram {part}: expected GiB, such as 10 or cuda0=10") from None
        found[device_name(find_device(name, "max-vram")) if equals else ""] = number
    return found


def find_device(name: str, flag: str = "device") -> torch.device:
    """The device of that name, torch's or sd-cli's (cuda0, metal, gpu), or the best one for "auto". Raises RequestError if it is not usable."""
    usable = [kind for kind in ("cuda", "mps", "cpu") if _is_there(kind)]
    text = name.strip().lower()
    if text in ("auto", "default"):
        return torch.device(usable[0])
    if text == "gpu" and usable[0] != "cpu":
        return torch.device(usable[0])
    there = f"usable: {', '.join(device_names())}"
    if text == "disk":
        raise RequestError(f"{flag} {name}: weights can wait there (--params-backend), a model cannot run there; {there}")
    match = re.fullmatch(r"([a-z]+?):?(\d*)", text)
    if match is None:
        raise RequestError(f"{flag} {name}: expected auto, cuda, cuda:N, mps or cpu; {there}")
    kind = KINDS.get(match[1], "")
    if kind not in usable:
        why = " (PyTorch has no such device)" if match[1] in NOT_IN_TORCH else ""
        raise RequestError(f"{flag} {name}: not usable here{why}; {there}")
    index = int(match[2] or 0)
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if index >= count:
        raise RequestError(f"{flag} {name}: there are {count} {kind} devices, counted from 0; {there}")
    return torch.device(kind, index) if kind == "cuda" and match[2] else torch.device(kind)


def device_name(device: torch.device) -> str:
    """ "cuda:0" for any way of writing that device."""
    return f"cuda:{device.index or 0}" if device.type == "cuda" else device.type


def device_names() -> list[str]:
    """sd-cli's names of the devices that are usable here: cuda0, cuda1, metal, cpu."""
    cards = [f"cuda{index}" for index in range(torch.cuda.device_count())] if _is_there("cuda") else []
    return [*cards, *(["metal"] if _is_there("mps") else []), "cpu"]


def list_devices() -> list[str]:
    """A line for each device: its name, tabulator, what it is. As sd-cli's --list-devices."""
    described = {"cpu": "processor", "metal": "Apple GPU"}
    return [
        f"{name}\t{described.get(name) or torch.cuda.get_device_name(int(name.removeprefix('cuda')))}" for name in device_names()
    ]


def _is_there(kind: str) -> bool:
    return kind == "cpu" or (torch.cuda.is_available() if kind == "cuda" else torch.backends.mps.is_available())


def _in_main_memory(name: str) -> bool:
    return name.lower() in ("cpu", "disk")


def _check_waiting(name: str) -> None:
    """Raise RequestError for a place where weights cannot wait. sd-cli's disk is main memory: weights are mapped from their file."""
    if name.lower() != "disk":
        find_device(name, "params-backend")


def available_on(devices: Iterable[torch.device]) -> dict[str, int]:
    """Free bytes of main memory ("cpu") and of each device, by device_name."""
    free = {"cpu": available_memory()}
    for device in devices:
        if device.type == "cuda":
            free[device_name(device)] = torch.cuda.mem_get_info(device)[0]
        elif device.type == "mps":  # it shares main memory, of which Metal recommends a part
            free["mps"] = max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return free


def give_back_memory() -> None:
    """Return what was freed to the system, or to the other models of a device: one stage's leavings are not the next one's peak."""
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
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        cached = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines()).get("inactive_file", 0)
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        return free
    # pages of files that were read, such as memory-mapped weights, count as used and are given back when they are needed
    return min(free, limit - used + int(cached))
