"""TODO"""

from __future__ import annotations

from dataclasses import dataclass

# tensors that only these models have; Flux in BFL's spelling and in diffusers', the autoencoder's
# is the same in both
FLUX_MARKER, VAE_MARKER = ("img_in.weight", "x_embedder.weight"), "decoder.conv_in.weight"


HEAD_WIDTH = 128


LATENT_CHANNELS = 16


LATENT_WIDTH = 64  # 16 channels x 2 x 2


# by input width: they read a second picture
VARIANTS = {384: "Flux Fill", 128: "Flux Canny or Depth"}


# BFL name -> diffusers names; several names: the rows are q, k, v (and the MLP's) one after the
# other.
FLUX_TOP = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),  # halves swapped, see _flux_rows
}


FLUX_DOUBLE = {
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}


FLUX_SINGLE = {
    "modulation.lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
}


FLUX_BLOCKS = {
    "double_blocks": ("transformer_blocks", FLUX_DOUBLE),
    "single_blocks": ("single_transformer_blocks", FLUX_SINGLE),
}


@dataclass(frozen=True)
class FluxNames:
    """The tensors of a layout that tell the model's sizes: input, text, pooled and guidance
    projections, a first block; the block lists.
    """

    latent: str
    context: str
    pooled: str
    first: str
    double: str
    single: str
    guidance: str


BFL_NAMES = FluxNames(
    "img_in.weight",
    "txt_in.weight",
    "vector_in.in_layer.weight",
    "double_blocks.0.img_attn.qkv.weight",
    "double_blocks",
    "single_blocks",
    "guidance_in.in_layer.weight",
)


DIFFUSERS_NAMES = FluxNames(
    "x_embedder.weight",
    "context_embedder.weight",
    "time_text_embed.text_embedder.linear_1.weight",
    "transformer_blocks.0.attn.to_q.weight",
    "transformer_blocks",
    "single_transformer_blocks",
    "time_text_embed.guidance_embedder.linear_1.weight",
)


# BFL autoencoder -> diffusers, as patterns; {up} counts from the other end, see _vae_name
VAE_NAMES = (
    (r"(encoder|decoder)\.(conv_in|conv_out)", r"\1.\2"),
    (r"(encoder|decoder)\.norm_out", r"\1.conv_norm_out"),
    (
        r"encoder\.down\.(\d+)\.block\.(\d+)\.(norm1|conv1|norm2|conv2)",
        r"encoder.down_blocks.\1.resnets.\2.\3",
    ),
    (
        r"encoder\.down\.(\d+)\.block\.(\d+)\.nin_shortcut",
        r"encoder.down_blocks.\1.resnets.\2.conv_shortcut",
    ),
    (r"encoder\.down\.(\d+)\.downsample\.conv", r"encoder.down_blocks.\1.downsamplers.0.conv"),
    (
        r"decoder\.up\.(\d+)\.block\.(\d+)\.(norm1|conv1|norm2|conv2)",
        r"decoder.up_blocks.\1.resnets.\2.\3",
    ),
    (
        r"decoder\.up\.(\d+)\.block\.(\d+)\.nin_shortcut",
        r"decoder.up_blocks.\1.resnets.\2.conv_shortcut",
    ),
    (r"decoder\.up\.(\d+)\.upsample\.conv", r"decoder.up_blocks.\1.upsamplers.0.conv"),
    (r"(encoder|decoder)\.mid\.block_1\.(norm1|conv1|norm2|conv2)", r"\1.mid_block.resnets.0.\2"),
    (r"(encoder|decoder)\.mid\.block_2\.(norm1|conv1|norm2|conv2)", r"\1.mid_block.resnets.1.\2"),
    (r"(encoder|decoder)\.mid\.attn_1\.norm", r"\1.mid_block.attentions.0.group_norm"),
    (r"(encoder|decoder)\.mid\.attn_1\.([qkv])", r"\1.mid_block.attentions.0.to_\2"),
    (r"(encoder|decoder)\.mid\.attn_1\.proj_out", r"\1.mid_block.attentions.0.to_out.0"),
)


@dataclass(frozen=True)
class FluxShape:
    """What a Flux file's tensors say about the model, before any weight is read.

    guidance: True for dev (distilled guidance is an input), False for schnell.
    """

    width: int
    double: int
    single: int
    context: int
    pooled: int
    guidance: bool


# tensors that only these models have; T5 in Hugging Face's spelling and in llama.cpp's
CLIP_MARKER = "embeddings.token_embedding.weight"


T5_MARKER = ("encoder.block.0.layer.0.SelfAttention.q.weight", "enc.blk.0.attn_q.weight")


# Tensors that only this model has, in each spelling; the same as the markers of checkpoints and
# text_encoders.
MARKERS = {
    "Flux": ("img_in.weight", "x_embedder.weight"),
    "autoencoder": ("decoder.conv_in.weight",),
    "CLIP-L": ("text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight"),
    "T5": ("encoder.block.0.layer.0.SelfAttention.q.weight", "enc.blk.0.attn_q.weight"),
    "PuLID": ("pulid_ca.0.to_q.weight",),
}


DOUBLE_INTERVAL = 2  # after double blocks 0, 2, .. 18


SINGLE_INTERVAL = 4  # after single blocks 0, 4, .. 36


def hook_places(double: int, single: int) -> int:
    """How many of PuLID's layers a Flux with so many double and single blocks has places for."""
    return -(-double // DOUBLE_INTERVAL) + -(-single // SINGLE_INTERVAL)
