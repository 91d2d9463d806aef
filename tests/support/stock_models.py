"""diffusers' own models with the weights of ours, for what must work on both."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def stock_flux(ours: nn.Module) -> Any:
    """A FluxTransformer2DModel."""
    from diffusers import FluxTransformer2DModel

    width = ours.x_embedder.out_features
    with torch.device("meta"):
        model = FluxTransformer2DModel(
            in_channels=ours.x_embedder.in_features,
            num_layers=len(ours.transformer_blocks),
            num_single_layers=len(ours.single_transformer_blocks),
            attention_head_dim=128,
            num_attention_heads=width // 128,
            joint_attention_dim=ours.context_embedder.in_features,
            pooled_projection_dim=ours.time_text_embed.text_embedder.linear_1.in_features,
            guidance_embeds=hasattr(ours.time_text_embed, "guidance_embedder"),
            axes_dims_rope=(16, 56, 56),
        )
    return _with_weights(model, ours)


def stock_autoencoder(ours: nn.Module) -> Any:
    """An AutoencoderKL, with Flux's scale and shift."""
    from diffusers import AutoencoderKL

    levels = ours.encoder.down_blocks
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(levels),
        up_block_types=("UpDecoderBlock2D",) * len(levels),
        block_out_channels=[level.resnets[0].conv2.out_channels for level in levels],
        layers_per_block=len(levels[0].resnets),
        latent_channels=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return _with_weights(model, ours)


def _with_weights(model: Any, ours: nn.Module) -> Any:
    model.load_state_dict(ours.state_dict(), strict=True, assign=True)
    return model.eval().requires_grad_(False)
