"""Seeded files that lie beside the models: a ControlNet, a tiny autoencoder."""

from __future__ import annotations

import torch
from safetensors.torch import save_file
from seeded.tensors import seeded_state


def write_control(path, *, double=2, single=2, width=128, context=96, pooled=64, modes=None):
    """A seeded ControlNet in diffusers' names."""
    from diffusers import FluxControlNetModel

    with torch.device("meta"):
        model = FluxControlNetModel(
            num_layers=double,
            num_single_layers=single,
            attention_head_dim=128,
            num_attention_heads=width // 128,
            joint_attention_dim=context,
            pooled_projection_dim=pooled,
            guidance_embeds=True,
            num_mode=modes,
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    state = seeded_state(shapes)
    save_file({name: torch.from_numpy(value).clone() for name, value in state.items()}, path)
    return path


def write_tae(path):
    """A tiny autoencoder of Flux's latents, in diffusers' names."""
    from pulid_generate.networks.tiny_autoencoder import TinyAutoencoder

    torch.manual_seed(5)
    save_file(TinyAutoencoder(8, 16).state_dict(), path)
    return path
