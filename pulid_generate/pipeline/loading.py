"""The models of one generation, each loaded where it will run and in the form that the memory plan
gives it.

Knows no order, no prompt and no picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pulid_extract.shared.cpu_linear import use_cpu_linear
from pulid_generate.errors import PlacementError, RequestError
from pulid_generate.files.fp8_layers import multiplies_in_fp8
from pulid_generate.files.model import Model
from pulid_generate.files.model_set import ModelFiles
from pulid_generate.kernels.availability import ask
from pulid_generate.memory.footprint import cacheable_bytes
from pulid_generate.memory.placement import CudaGraphs, Placement
from pulid_generate.memory.plan import Plan
from pulid_generate.memory.streaming import blocks_of, stream_blocks
from pulid_generate.models.autoencoder import Autoencoder, load_vae
from pulid_generate.models.clip import ClipText
from pulid_generate.models.flux import load_flux
from pulid_generate.models.t5 import T5Text
from pulid_generate.packed.fp8_products import check_products, reason_against, use_fp8_products
from pulid_generate.packed.ggml import Compute, compute_quantized, multiply_single_tokens
from pulid_generate.packed.widening import widen_while_running


class Models:
    """Loads one model per call; whoever calls keeps it or lets it go.

    plan: what keeps its 16 bits and which blocks stay on a device; the pipeline sets it before the
    first load. dequantize: widen Flux's packed matrices (GGUF, fp8) once, when they load. compute:
    "int8" multiplies a GGUF's matrices in 8-bit integers, on a CPU; "fp8" those of a file in 16
    bits or fp8 in 8-bit floating point, on a GPU that can. weight_cache: bytes of widened weights
    of a GGUF that may be kept, on a CPU. cuda_graphs: record Flux's forwards on an NVIDIA GPU and
    replay them: "auto" those of small pictures, "on" all, "off" none.
    """

    plan: Plan

    def __init__(
        self,
        files: ModelFiles,
        placement: Placement,
        *,
        dequantize: bool = False,
        compute: Compute = "float",
        weight_cache: int = 0,
        cuda_graphs: CudaGraphs = "auto",
    ):
        """Raises RequestError, InputError or PlacementError for a way of computing that the flags
        exclude, or that this file or device does not have.
        """
        self.files, self.placement, self.dequantize = files, placement, dequantize
        self.cuda_graphs = cuda_graphs
        most = cacheable_bytes(
            files.flux.header, placement.device.type, placement.dtype.itemsize, dequantize
        )
        self.compute, self.weight_cache = compute, min(weight_cache, most)
        if compute == "int8":
            self._check_int8()
        elif compute == "fp8":
            self._check_fp8()

    def _check_int8(self) -> None:
        """Raise RequestError where 8-bit integers cannot multiply."""
        if self.placement.device.type != "cpu":
            raise RequestError(
                f"compute int8: is for a CPU; leave it out on {self.placement.device}"
            )
        if self.files.flux.header.format != "gguf":
            raise RequestError(
                f"compute int8: {self.files.flux.path} holds no ggml matrices; give a GGUF file"
            )
        if self.dequantize:
            raise RequestError(
                "compute int8: works on the file's own matrices; leave --dequantize out"
            )

    def _check_fp8(self) -> None:
        """Raise RequestError where 8-bit floating point cannot multiply."""
        reason = reason_against(self.placement.device, self.placement.dtype)
        if reason:
            raise RequestError(f"compute fp8: {reason}; or leave it out")
        if self.files.flux.header.format == "gguf":
            raise RequestError(
                f"compute fp8: {self.files.flux.path} holds ggml's types, which would be rounded "
                "twice; give a file in 16 bits or fp8, or leave it out"
            )
        if self.dequantize:
            raise RequestError(
                "compute fp8: keeps matrices in fp8 and --dequantize widens them; leave one out"
            )

    def records(self, tokens: int = 0) -> bool:
        """Whether Flux's forwards with so many image tokens are recorded."""
        return self.placement.records(self.cuda_graphs, tokens)

    def clip(self) -> ClipText:
        """CLIP-L. Raises CheckpointError."""
        device, dtype = self.placement.device_of(Model.CLIP), self.placement.dtype_of(Model.CLIP)
        clip = ClipText.load(self.files.clip_l.header, dtype, device)
        _tune(clip.model, device, dtype)
        return clip

    def t5(self) -> T5Text:
        """T5. Raises CheckpointError."""
        device, dtype = self.placement.device_of(Model.T5), self.placement.dtype_of(Model.T5)
        ask(device)
        storage, keep = self.placement.storage_of(Model.T5), Model.T5 in self.plan.sixteen_bit
        t5 = T5Text.load(self.files.t5xxl.header, None if keep else dtype, storage)
        _tune(t5.model, device, dtype)
        if keep:
            widen_while_running(t5.model)
        self._stream(Model.T5, t5.model, device)
        return t5

    def flux(self) -> Any:
        """Flux's transformer. Raises CheckpointError."""
        device, keep = self.placement.device, Model.FLUX in self.plan.sixteen_bit
        ask(device)
        dtype = None if keep else self.placement.dtype
        storage = self.placement.storage_of(Model.FLUX)
        if self.compute == "fp8":
            flux = self._flux_in_fp8(device, storage)
        else:
            header = self.files.flux.header
            flux = load_flux(header, dtype, storage, dequantize=self.dequantize)
        _tune(flux, device, self.placement.dtype)
        if device.type == "cpu":
            compute_quantized(flux, self.compute, self.weight_cache)
        multiply_single_tokens(flux, device, self.placement.dtype)
        if keep:
            widen_while_running(flux)
        self._stream(Model.FLUX, flux, device)
        return flux

    def _flux_in_fp8(self, device: torch.device, storage: torch.device) -> Any:
        """Flux whose large matrices are rounded on the device, one by one: they stay in the mapped
        file until then. Raises CheckpointError, PlacementError.
        """
        check_products(device)
        flux = load_flux(self.files.flux.header, None, "cpu")
        use_fp8_products(flux, device, multiplies_in_fp8, storage)
        # what is left in 16 bits or more
        for parameter in flux.parameters():
            parameter.data = parameter.data.to(storage, self.placement.dtype)
        return flux.to(storage)

    def vae(self) -> Autoencoder:
        """The autoencoder. Raises CheckpointError."""
        device, dtype = self.placement.device_of(Model.VAE), self.placement.dtype_of(Model.VAE)
        return load_vae(self.files.vae.header, dtype, device)

    def _stream(self, name: Model, model: Any, device: torch.device) -> None:
        """Weights that wait in main memory: all blocks but those that the plan keeps on the
        device.
        """
        resident = self.plan.resident.get(name)
        if resident is not None:
            stream_blocks(model, blocks_of(model), device, resident)


def _tune(model: Any, device: torch.device, dtype: torch.dtype) -> None:
    """On a CPU, float32 products through oneDNN: the same for plain and for packed weights, and
    faster than torch's own on AMD.
    """
    if device.type == "cpu" and dtype == torch.float32:
        use_cpu_linear(model)


@contextmanager
def naming_memory(model: Model, placement: Placement) -> Iterator[None]:
    """While a model is loaded or used, running out of memory is a PlacementError that names the
    flags which help.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise _out_of_memory(model, placement) from None
    except RuntimeError as error:
        # the CPU's allocator and mps raise a plain one
        if "allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        raise _out_of_memory(model, placement) from None


# What helps a model that does not fit; and what does beside a CPU
HELPS = {
    Model.CLIP: ("a smaller t5xxl file", "--clip-on-cpu, --offload-to-cpu"),
    Model.T5: ("a smaller t5xxl file", "--clip-on-cpu, --offload-to-cpu"),
    Model.FLUX: ("a GGUF file, a smaller picture", "--offload-to-cpu"),
    Model.VAE: ("--vae-tiling, a smaller picture", "--vae-on-cpu"),
}


def _out_of_memory(model: Model, placement: Placement) -> PlacementError:
    device = placement.device_of(model)
    helps, beside_a_cpu = HELPS[model]
    if device.type != "cpu":
        helps = f"{beside_a_cpu}, {helps}"
    return PlacementError(f"{model}: out of memory on {device}; try {helps}")
