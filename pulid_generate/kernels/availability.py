"""Whether the kernels can run on a device, and if not, why.

Imports triton only where there is an NVIDIA GPU.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

from pulid_generate.kernels import trials

OLDEST = (8, 0)  # compute capability: older cards do not multiply bfloat16


_served: set[torch.device] = set()


def ask(device: torch.device) -> str | None:
    """As `available`, and remembered: `serves` answers from now on. Call it before a model runs."""
    reason = available(device)
    if reason is None:
        _served.add(_numbered(device))
    elif device.type == "cuda":
        trials.note(f"GPU kernels: torch's own operations run instead, because {reason}")
    return reason


def _numbered(device: torch.device) -> torch.device:
    """As tensors name it: "cuda" is none of theirs."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def serves(device: torch.device) -> bool:
    """Whether the kernels run on a device that somebody has asked for. Without a look at anything
    outside, so that a compiled graph may hold the question.
    """
    return device in _served


def available(device: torch.device | str) -> str | None:
    """None if the kernels run on `device`, else the reason why not, to be shown to a user.

    The first call for a card runs a small kernel there (a second while Triton's cache is empty).
    """
    device = torch.device(device)
    if device.type != "cuda":
        return f"the device is {device.type}, and the kernels are for NVIDIA GPUs"
    if torch.version.hip:
        return "the kernels are untested on AMD GPUs"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on"):
        return "TRITON_INTERPRET is set, with which kernels run in Python"
    if not torch.cuda.is_available():
        return "torch finds no NVIDIA GPU"
    return _reason_against(_numbered(device).index)


@functools.lru_cache
def _reason_against(index: int) -> str | None:
    capability = torch.cuda.get_device_capability(index)
    if capability < OLDEST:
        found, oldest = (".".join(map(str, version)) for version in (capability, OLDEST))
        return f"the GPU has compute capability {found}, and the kernels need {oldest}"
    return _failure_of_a_kernel(torch.device("cuda", index))


def _failure_of_a_kernel(device: torch.device) -> str | None:
    """Triton needs a C compiler, Python's headers, a folder to write to and a driver it knows."""
    try:
        from pulid_generate.kernels import ggml

        q8_0 = 8
        block = torch.zeros(1, ggml.GGML_TYPES[q8_0].size, dtype=torch.uint8, device=device)
        ggml.widen_ggml(block, q8_0, torch.float16)
        torch.cuda.synchronize(device)
    # Whatever it is that fails in somebody's installation, the torch code draws the same picture
    except Exception as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"Triton cannot run a kernel here: {line}"
    return None
