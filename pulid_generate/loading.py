"""The models of one generation, each loaded where it will run and in the form that fits there. Knows no order, no prompt and no picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pulid_generate.checkpoints import FLUX_MARKER, load_flux, load_vae
from pulid_generate.model_set import ModelFiles
from pulid_generate.placement import Placement, available_memory
from pulid_generate.tensor_files import float32_bytes
from pulid_generate.text_encoders import T5_MARKER, ClipText, T5Text
from pulid_generate.widening import widen_while_running

MEMORY_MARGIN = 1.15  # room for activations on top of the weights


class Models:
    """Loads one model per call; whoever calls keeps it or lets it go.

    dequantize: widen packed matrices (GGUF, fp8) once, when they load.
    """

    def __init__(self, files: ModelFiles, placement: Placement, log: Callable[[str], None], *, dequantize: bool = False):
        self.files, self.placement, self.log, self.dequantize = files, placement, log, dequantize

    def clip(self) -> ClipText:
        device = self.placement.text_device
        return ClipText.load(self.files.clip_l.header, self.placement.dtype_on(device), device)

    @property
    def t5_dtype(self) -> torch.dtype:
        """The arithmetic of T5. T5-XXL's activations overflow float16."""
        dtype = self.placement.dtype_on(self.placement.text_device)
        return torch.bfloat16 if dtype == torch.float16 else dtype

    def t5(self) -> T5Text:
        device, dtype = self.placement.text_device, self.t5_dtype
        needed = float32_bytes(self.files.t5xxl.header, T5_MARKER)
        keep = self._keep_narrow("T5", needed, device, dtype)
        t5 = T5Text.load(
            self.files.t5xxl.header, self.files.t5_tokenizer, None if keep else dtype, self.placement.storage(device)
        )
        if keep:
            widen_while_running(t5.model, whole=t5.whole)
        self._offload(t5.model, device)
        return t5

    def flux(self) -> Any:
        device, dtype = self.placement.device, self.placement.dtype
        needed = float32_bytes(self.files.flux.header, FLUX_MARKER, self.dequantize)
        keep = self._keep_narrow("Flux", needed, device, dtype)
        storage = self.placement.storage(device)
        flux = load_flux(self.files.flux.header, None if keep else dtype, storage, dequantize=self.dequantize)
        if keep:
            widen_while_running(flux)
        self._offload(flux, device)
        return flux

    def vae(self) -> Any:
        device = self.placement.vae_device
        return load_vae(self.files.vae.header, self.placement.dtype_on(device), device)

    def _keep_narrow(self, name: str, needed: float, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether float32 weights would not fit this machine's memory, so that the file's 16 bits are kept and widened per layer.

        needed: bytes of the model with float32 weights; packed ones (fp8, GGUF) are widened per layer in any case.
        """
        if device.type != "cpu" or dtype != torch.float32:
            return False
        needed *= MEMORY_MARGIN
        if needed <= available_memory():
            return False
        self.log(f"{name}: float32 weights would take {needed / 2**30:.0f} GiB; keeping the file's 16 bits, widened per layer")
        return True

    def _offload(self, model: Any, device: torch.device) -> None:
        if self.placement.offload and device == self.placement.device:
            from diffusers.hooks import apply_group_offloading

            apply_group_offloading(model, onload_device=device, offload_device=torch.device("cpu"), offload_type="leaf_level")
