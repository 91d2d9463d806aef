"""diffusers' and transformers' own models, new ones and with the weights of ours, for what must
work on both and for folders that those libraries write.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def new_flux(
    *,
    width: int,
    double: int,
    single: int,
    context: int,
    pooled: int = 32,
    latent: int = 64,
    guidance: bool = False,
) -> Any:
    """A FluxTransformer2DModel as it begins. context, pooled: widths of what T5 and CLIP give;
    latent: of a token of the picture.
    """
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=latent,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=128,
        num_attention_heads=width // 128,
        joint_attention_dim=context,
        pooled_projection_dim=pooled,
        guidance_embeds=guidance,
        axes_dims_rope=(16, 56, 56),
    )


def stock_flux(ours: nn.Module) -> Any:
    """A FluxTransformer2DModel."""
    with torch.device("meta"):
        model = new_flux(
            width=ours.x_embedder.out_features,
            double=len(ours.transformer_blocks),
            single=len(ours.single_transformer_blocks),
            context=ours.context_embedder.in_features,
            pooled=ours.time_text_embed.text_embedder.linear_1.in_features,
            latent=ours.x_embedder.in_features,
            guidance=hasattr(ours.time_text_embed, "guidance_embedder"),
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


def stock_clip(ours: nn.Module) -> Any:
    """A CLIPTextModel."""
    from transformers import CLIPTextConfig, CLIPTextModel

    table, layers = ours.embeddings.position_embedding, ours.encoder.layers
    config = CLIPTextConfig(
        vocab_size=ours.rows,
        hidden_size=table.embedding_dim,
        intermediate_size=layers[0].mlp.fc1.out_features,
        num_hidden_layers=len(layers),
        num_attention_heads=layers[0].self_attn.heads,
        max_position_embeddings=table.num_embeddings,
        hidden_act="quick_gelu",
        eos_token_id=2,
    )
    model = CLIPTextModel(config)
    prefix = "text_model." if hasattr(model, "text_model") else ""
    state = {prefix + name: tensor for name, tensor in ours.state_dict().items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def stock_t5(ours: nn.Module) -> Any:
    """A T5EncoderModel."""
    from transformers import T5Config, T5EncoderModel

    blocks = ours.encoder.block
    attention, mlp = blocks[0].layer[0].SelfAttention, blocks[0].layer[1].DenseReluDense
    config = T5Config(
        vocab_size=ours.rows,
        d_model=attention.q.in_features,
        d_ff=mlp.wi_0.out_features,
        num_layers=len(blocks),
        num_heads=attention.heads,
        d_kv=attention.q.out_features // attention.heads,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )
    model = T5EncoderModel(config)
    state = {**ours.state_dict(), "encoder.embed_tokens.weight": ours.shared.weight}
    model.load_state_dict(state, strict=True, assign=True)
    model.encoder.embed_tokens.weight = model.shared.weight
    return model.eval()


def _with_weights(model: Any, ours: nn.Module) -> Any:
    model.load_state_dict(ours.state_dict(), strict=True, assign=True)
    return model.eval().requires_grad_(False)
