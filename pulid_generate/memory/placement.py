"""Where each model runs, where its weights wait, and in what arithmetic. Knows no file.

The assignments are sd-cli's: "diffusion=cuda0,te=cpu,vae=cpu", with its names of modules and
devices and its precedence. Source: stable-diffusion.cpp docs/backend.md and ggml_extend_backend.cpp
(sd_parse_backend_assignment), near 97d29908.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from pulid_extract.shared.cpu_bfloat16 import multiplies_bfloat16
from pulid_generate.errors import RequestError
from pulid_generate.files.model import Model
from pulid_generate.kernels.recording import has_cuda_graphs
from pulid_generate.memory.devices import CPU, device_name, find_device
from pulid_generate.memory.footprint import GIB

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
# where a Placement holds the device of a module
DEVICE_FIELDS = {"diffusion": "device", "te": "text_device", "vae": "vae_device"}
# sd-cli's modules that Flux with PuLID does not have: an assignment to them is accepted, and has
# nothing to place
ABSENT = re.compile(
    "clipvision|vision|controlnet|control|photomaker|photomakerid|pmid|photo|upscaler|esrgan|hires"
    "|detector|adetailer|yolo"
)
# models whose blocks can wait in main memory
STREAMABLE = (Model.T5, Model.FLUX)
# which of Flux's forwards are recorded and replayed: those of small pictures, all, none
CudaGraphs = Literal["auto", "on", "off"]
# Image tokens of 768x768: with more the card takes longer than Python does to start its work
RECORDED_TOKENS = 48 * 48


@dataclass(frozen=True)
class Placement:
    """Where the models run, and in what arithmetic."""

    # Flux's
    device: torch.device
    # of CLIP and T5
    text_device: torch.device
    vae_device: torch.device
    # of Flux
    dtype: torch.dtype
    # the models whose weights stay in main memory, a block on the device only while it runs
    offload: frozenset[Model] = frozenset()
    # GiB that may be used, by device name ("cuda:0") or "" for every device; negative: GiB to leave
    # free
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
        """device: "auto", "cuda", "cuda:1", "mps" or "cpu". dtype: a torch dtype's name, or "auto"
        for `best_dtype`. The rest as sd-cli's flags.

        As there, clip_on_cpu, vae_on_cpu and offload stand for te=cpu, vae=cpu and params *=cpu,
        and the other assignments of a module win over them. Raises RequestError for a module or
        device that there is not.
        """
        runs: dict[str, str] = {}
        if clip_on_cpu:
            runs["te"] = "cpu"
        if vae_on_cpu:
            runs["vae"] = "cpu"
        runs |= parse_assignment("backend", backend)
        devices: dict[str, torch.device] = {}
        for module in MODULES:
            flag = "backend" if module in runs or "" in runs else "device"
            devices[module] = find_device(runs.get(module) or runs.get("") or device, flag)
        waits = {"": "cpu"} if offload else {}
        waits |= parse_assignment("params-backend", params_backend)
        for name in waits.values():
            _check_waiting(name)
        offloaded = set()
        for model in STREAMABLE:
            waits_in = waits.get(model.module, waits.get("", ""))
            if _in_main_memory(waits_in) and devices[model.module] != CPU:
                offloaded.add(model)
        if dtype == "auto":
            dtype = best_dtype(devices["diffusion"])
        return cls(
            devices["diffusion"],
            devices["te"],
            devices["vae"],
            getattr(torch, dtype),
            frozenset(offloaded),
            parse_budgets(max_vram),
        )

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Every device that a model runs on, some of them twice."""
        return (self.device, self.text_device, self.vae_device)

    def device_of(self, model: Model) -> torch.device:
        """Where a model runs."""
        return getattr(self, DEVICE_FIELDS[model.module])

    def name_of(self, model: Model) -> str:
        """The name of the device that a model runs on: "cpu", "cuda:0"."""
        return device_name(self.device_of(model))

    def dtype_of(self, model: Model) -> torch.dtype:
        """The arithmetic of a model."""
        dtype = self.dtype_on(self.device_of(model))
        if model is Model.T5 and dtype == torch.float16:
            # T5-XXL's activations overflow float16
            return torch.bfloat16
        return dtype

    def with_on_cpu(self, model: Model) -> Placement:
        """The same, but for the model's module, which runs on the CPU."""
        changes: dict[str, Any] = {DEVICE_FIELDS[model.module]: CPU}
        return replace(self, **changes)

    def dtype_on(self, device: torch.device) -> torch.dtype:
        """The arithmetic of a model that runs on `device`: a CPU beside a GPU computes in float32,
        a GPU beside a CPU in bfloat16.
        """
        if device.type == self.device.type or self.device.type != "cpu" != device.type:
            return self.dtype
        return torch.float32 if device.type == "cpu" else torch.bfloat16

    def streams(self, model: Model) -> bool:
        """Whether the weights of T5 or Flux may wait in main memory: they were sent there, or their
        device has a limit.
        """
        device = self.device_of(model)
        return model in self.offload or (device != CPU and self._limit(device) is not None)

    def records(self, asked: CudaGraphs, tokens: int = 0) -> bool:
        """Whether Flux's forwards with so many image tokens, of all pictures that go through
        together, are recorded. Weights that stream are copied by Python, which is not.
        """
        if asked == "off" or not has_cuda_graphs(self.device) or self.streams(Model.FLUX):
            return False
        return asked == "on" or tokens <= RECORDED_TOKENS

    def storage_of(self, model: Model) -> torch.device:
        """Where the weights of T5 or Flux are loaded to."""
        return CPU if self.streams(model) else self.device_of(model)

    def usable(self, device: torch.device, free: int) -> int:
        """Bytes of a device that may be taken, where `free` are free."""
        limit = self._limit(device)
        if limit is None:
            return free
        if limit > 0:
            return min(free, int(limit * GIB))
        return max(0, free + int(limit * GIB))

    def _limit(self, device: torch.device) -> float | None:
        """GiB; sd-cli's 0 means no limit."""
        if device == CPU:
            return None
        return self.max_vram.get(device_name(device), self.max_vram.get("")) or None


def best_dtype(device: torch.device) -> str:
    """What a device multiplies fastest: bfloat16, but float32 on a CPU without instructions for
    it, where bfloat16 takes several times as long.
    """
    if device.type == "cpu" and not multiplies_bfloat16():
        return "float32"
    return "bfloat16"


def parse_assignment(flag: str, text: str | None) -> dict[str, str]:
    """{"diffusion": "cuda0", ..} of "diffusion=cuda0,te=cpu"; a device alone, or of all, default or
    *, stands under "". Raises RequestError.

    flag: whose value the text is, for messages. Modules that do not exist here are left out.
    """
    devices: dict[str, str] = {}
    for part in (text or "").split(","):
        part = part.strip()
        if not part:
            continue
        name, equals, value = (word.strip() for word in part.partition("="))
        name, value = (name.lower(), value) if equals else ("*", name)
        if not name or not value:
            raise RequestError(f"{flag} {part}: expected MODULE=DEVICE, such as te=cpu")
        if "&" in value:
            raise RequestError(f"{flag} {part}: a model runs on one device here; name one of them")
        plain = re.sub("[-_]", "", name)
        if name in EVERY:
            devices[""] = value
        elif not ABSENT.fullmatch(plain):
            module = next((module for module, names in MODULES.items() if plain in names), None)
            if module is None:
                raise RequestError(
                    f"{flag} {part}: there is no module {name!r}; known: {', '.join(MODULES)}, all"
                )
            devices[module] = value
    return devices


def parse_budgets(text: str | float | None) -> dict[str, float]:
    """GiB by device of sd-cli's --max-vram: "6", "cuda0=6,cuda1=2", or a number; "" is every
    device. Raises RequestError.
    """
    if text is None or text == "":
        return {}
    budgets: dict[str, float] = {}
    for part in str(text).split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        try:
            number = float(value if equals else name)
            if not abs(number) < float("inf"):
                raise ValueError
        except ValueError:
            raise RequestError(f"max-vram {part}: expected GiB, such as 10 or cuda0=10") from None
        device = device_name(find_device(name, "max-vram")) if equals else ""
        budgets[device] = number
    return budgets


def _in_main_memory(name: str) -> bool:
    return name.lower() in ("cpu", "disk")


def _check_waiting(name: str) -> None:
    """Raise RequestError for a place where weights cannot wait. sd-cli's disk is main memory:
    weights are mapped from their file.
    """
    if name.lower() != "disk":
        find_device(name, "params-backend")
