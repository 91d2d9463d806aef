"""A ControlNet's file as diffusers' FluxControlNetModel. Loading is strict; XLabs' names are
translated.

Source of the translation: XLabs-AI/x-flux src/flux/controlnet.py; huggingface/diffusers 0.42.1
controlnet_flux.py, controlnet.py (`ControlNetConditioningEmbedding`).
"""

from __future__ import annotations

from typing import Any

import torch

from pulid_generate.control.files import MARKER, ControlFile
from pulid_generate.files.layouts import HEAD_WIDTH, LATENT_WIDTH, PATCH
from pulid_generate.models.flux import flux_rows, flux_targets
from pulid_generate.models.tensor_files import load_strictly, read_tensors, reject_unknown

HINT_CHANNELS = 16
# XLabs' layers of pixels -> latents, by their number, a SiLU between every two
HINT_LAYERS = {0: "conv_in", 14: "conv_out"} | {2 * i + 2: f"blocks.{i}" for i in range(6)}


def load_control(file: ControlFile, dtype: torch.dtype, device: torch.device) -> Any:
    """The model in eval mode. Raises CheckpointError."""
    from diffusers import FluxControlNetModel

    shape = file.shape
    with torch.device("meta"):
        model = FluxControlNetModel(
            # how a map of hints becomes tokens
            patch_size=PATCH if shape.pixels else 1,
            in_channels=LATENT_WIDTH,
            num_layers=shape.flux.double,
            num_single_layers=shape.flux.single,
            attention_head_dim=HEAD_WIDTH,
            num_attention_heads=shape.flux.width // HEAD_WIDTH,
            joint_attention_dim=shape.flux.context,
            pooled_projection_dim=shape.flux.pooled,
            guidance_embeds=shape.flux.guidance,
            axes_dims_rope=[16, 56, 56],
            num_mode=shape.modes,
            conditioning_embedding_channels=HINT_CHANNELS if shape.pixels else None,
        )
    state: dict[str, Any] = {}
    unknown = []
    for name, tensor in read_tensors(file.header, MARKER, device, dtype, packed=False):
        targets = _xlabs_targets(name) if shape.xlabs else [name]
        if targets is None:
            unknown.append(name)
            continue
        rows = flux_rows(name, tensor, len(targets), shape.flux.width) if shape.xlabs else [tensor]
        state.update(zip(targets, rows, strict=True))
    reject_unknown(file.header, unknown)
    return load_strictly(model, state, file.header).requires_grad_(False)


def _xlabs_targets(name: str) -> list[str] | None:
    """diffusers' names for one of XLabs', in row order; None for an unknown one."""
    layer, _, leaf = name.rpartition(".")
    head, _, number = layer.partition(".")
    if head == "controlnet_blocks":
        return [name]
    if head == "pos_embed_input":
        return [f"controlnet_x_embedder.{leaf}"]
    if head == "input_hint_block":
        target = HINT_LAYERS.get(int(number)) if number.isdigit() else None
        return [f"input_hint_block.{target}.{leaf}"] if target else None
    return flux_targets(name)
