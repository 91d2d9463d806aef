"""Encoded prompts: what Flux reads of them, and where it is kept. Encoders come as objects; knows
nothing of when they load.

Shapes: T text tokens, C channels of T5, P of CLIP's pooled vector.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pulid_extract.shared.model_files import FoundFile
from pulid_generate.errors import CheckpointError
from pulid_generate.files.model_set import ModelFiles
from pulid_generate.memory.placement import Placement
from pulid_generate.models.clip import ClipText
from pulid_generate.models.t5 import T5Text
from pulid_generate.pipeline.text_cache import TextCache, file_identity, key_of
from pulid_generate.request.prompts.tokens import LoraUse, Prompt
from pulid_generate.version import __version__

# LoRAs -> a context in which they are on an encoder
Attach = Callable[[Sequence[LoraUse]], AbstractContextManager[None]]


@dataclass(frozen=True)
class TextStates:
    """What Flux reads of a prompt, in the compute dtype on the main device."""

    # (1, T, C)
    t5: Tensor
    # (1, P)
    pooled: Tensor


@dataclass(frozen=True)
class Texts:
    """A job's prompt, and its negative prompt where it has a negative branch."""

    positive: TextStates
    negative: TextStates | None = None


def pool_prompts(clip: ClipText, prompts: Sequence[Prompt], attach: Attach) -> list[Tensor]:
    """CLIP's vector (1, P) of every prompt."""
    pooled = []
    for loras, alike in groupby(prompts, lambda prompt: prompt.loras):
        with attach(loras):
            pooled += [clip.encode(prompt.clip_ids) for prompt in alike]
    return pooled


def encode_prompts(
    t5: T5Text, prompts: Sequence[Prompt], attach: Attach, keep: Callable[[Prompt, Tensor], None]
) -> None:
    """T5's states (1, T, C) of every prompt go to `keep` as soon as they are there."""
    for loras, alike in groupby(prompts, lambda prompt: prompt.loras):
        with attach(loras):
            for prompt in alike:
                keep(prompt, t5.encode_chunks(prompt.t5_chunks))


def check_finite(states: Tensor, found: FoundFile) -> None:
    """Raise CheckpointError for what an encoder of a damaged file gives."""
    if not torch.isfinite(states).all():
        raise CheckpointError(
            f"{found.path}: gives NaN or infinite states; the file is damaged, download it again"
        )


class TextStore:
    """Encoded prompts of one set of files, in a cache: under a key that holds everything they
    depend on.
    """

    def __init__(self, cache: TextCache, files: ModelFiles, placement: Placement):
        self.cache, self.files, self.placement = cache, files, placement

    def lacks(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Those that are not there."""
        return [prompt for prompt in prompts if self._key(prompt) not in self.cache]

    def put(self, prompt: Prompt, states: TextStates) -> None:
        """Raises OutputError for a cache that cannot be written."""
        tensors = {"t5": states.t5, "pooled": states.pooled}
        data = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
        self.cache.put(self._key(prompt), data)

    def get(self, prompt: Prompt) -> TextStates | None:
        """On the main device; None if it is not there, or damaged."""
        data = self.cache.get(self._key(prompt))
        if data is None:
            return None
        try:
            tensors = load(data)
            states = TextStates(tensors["t5"], tensors["pooled"])
            if states.t5.ndim != 3 or states.pooled.ndim != 2:
                raise ValueError("of another shape")
            check_finite(states.t5, self.files.t5xxl)
            check_finite(states.pooled, self.files.clip_l)
        # sealed, and of another program or version: encoded anew
        except (SafetensorError, CheckpointError, ValueError, KeyError, RuntimeError):
            self.cache.forget(self._key(prompt))
            return None
        device = self.placement.device
        return TextStates(states.t5.to(device), states.pooled.to(device))

    def _key(self, prompt: Prompt) -> str:
        facts = {
            "text": prompt.text,
            "length": prompt.length,
            "weighted": prompt.weighted,
            "loras": [(lora.sha256, lora.weight) for lora in prompt.loras],
        }
        return key_of(self._encoders | facts)

    @cached_property
    def _encoders(self) -> dict[str, Any]:
        """What all states depend on beside their prompt; rounding differs between machines and
        versions.
        """
        files, device = self.files, self.placement.text_device
        if device.type == "cuda":
            machine = torch.cuda.get_device_name(device)
        else:
            machine = f"{platform.machine()} {platform.processor()}"
        tokenizer = files.t5_tokenizer.stat()
        return {
            "clip_l": file_identity(files.clip_l.header, files.clip_l.path),
            "t5xxl": file_identity(files.t5xxl.header, files.t5xxl.path),
            "tokenizer": [files.t5_tokenizer.name, tokenizer.st_size, tokenizer.st_mtime_ns],
            "dtypes": [str(self.placement.dtype), str(self.placement.dtype_on(device))],
            "machine": [
                device.type,
                machine,
                torch.backends.cpu.get_cpu_capability(),
                torch.get_num_threads(),
            ],
            "versions": [__version__, torch.__version__],
        }
