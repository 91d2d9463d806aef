"""Where models run, where their weights wait, and in what arithmetic; and how much memory there is.
Knows devices, and no model or file.

The assignments are sd-cli's: "diffusion=cuda0,te=cpu,vae=cpu", with its names of modules and
devices and its precedence. Source: stable-diffusion.cpp docs/backend.md and ggml_extend_backend.cpp
(sd_parse_backend_assignment), near 97d29908.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from pulid_generate.errors import RequestError
from pulid_generate.memory.devices import CPU, GIB, device_name, find_device

# What sd-cli calls the parts of a generation, hyphens and underscores aside. "te" is CLIP and T5
# together: it has no name for one of them.
MODULES = {
    "diffusion": ("diffusion", "model", "unet", "dit"),
    "te": (
        "te",
        "clip",
        "text",
        "textencoder",
        "textencoders",
        "conditioner",
        "cond",
        "llm",
        "t5",
        "t5xxl",
    ),
    "vae": ("vae", "firststage", "autoencoder", "tae"),
}
EVERY = ("all", "default", "*")
# sd-cli's modules that Flux with PuLID does not have: an assignment to them is accepted, and has
# nothing to place
ABSENT = re.compile(
    "clipvision|vision|controlnet|control|photomaker|photomakerid|pmid|photo|upscaler|esrgan|hires|detector|adetailer|yolo"
)


@dataclass(frozen=True)
class Placement:
    """Where the models run, and in what arithmetic.

    offload: the modules ("diffusion", "te") whose weights stay in main memory, a block on the
    device only while it runs. max_vram: GiB that may be used, by device name ("cuda:0") or "" for
    every device; negative: GiB to leave free.
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
        """device: "auto", "cuda", "cuda:1", "mps" or "cpu". dtype: "auto" or a torch dtype's name.
        The rest as sd-cli's flags.

        As there, clip_on_cpu, vae_on_cpu and offload stand for te=cpu, vae=cpu and params *=cpu,
        and the other assignments of a module win over them. Raises RequestError for a module or
        device that there is not.
        """
        runs = {"te": "cpu"} if clip_on_cpu else {}
        runs |= {"vae": "cpu"} if vae_on_cpu else {}
        runs |= parse_assignment("backend", backend)
        fallback = runs.get("") or device
        where = {
            module: find_device(
                runs.get(module, fallback), "backend" if {module, ""} & set(runs) else "device"
            )
            for module in MODULES
        }
        waits = ({"": "cpu"} if offload else {}) | parse_assignment(
            "params-backend", params_backend
        )
        for name in waits.values():
            _check_waiting(name)
        main = where["diffusion"]
        # bfloat16 matrix products are several times slower than float32 ones on most CPUs, and less
        # exact
        kind = dtype if dtype != "auto" else "float32" if main.type == "cpu" else "bfloat16"
        offloaded = frozenset(
            module
            for module in ("diffusion", "te")
            if _in_main_memory(waits.get(module, waits.get("", ""))) and where[module] != CPU
        )
        return cls(
            main,
            where["te"],
            where["vae"],
            getattr(torch, kind),
            offloaded,
            parse_budgets(max_vram),
        )

    def dtype_on(self, device: torch.device) -> torch.dtype:
        """The arithmetic of a model that runs on `device`: a CPU beside a GPU computes in float32,
        a GPU beside a CPU in bfloat16.
        """
        if device.type == self.device.type or self.device.type != "cpu" != device.type:
            return self.dtype
        return torch.float32 if device.type == "cpu" else torch.bfloat16

    def streams(self, module: str) -> bool:
        """Whether the weights of "diffusion" or "te" may wait in main memory: they were sent there,
        or their device has a limit.
        """
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
    """{"diffusion": "cuda0", ..} of "diffusion=cuda0,te=cpu"; a device alone, or of all, default or
    *, stands under "". Raises RequestError.

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
                raise RequestError(
                    f"{flag} {part}: there is no module {name!r}; known: {', '.join(MODULES)}, all"
                )
            found[module] = value
    return found


def parse_budgets(text: str | float | None) -> dict[str, float]:
    """GiB by device of sd-cli's --max-vram: "6", "cuda0=6,cuda1=2", or a number; "" is every
    device. Raises RequestError.
    """
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


def _in_main_memory(name: str) -> bool:
    return name.lower() in ("cpu", "disk")


def _check_waiting(name: str) -> None:
    """Raise RequestError for a place where weights cannot wait. sd-cli's disk is main memory:
    weights are mapped from their file.
    """
    if name.lower() != "disk":
        find_device(name, "params-backend")
