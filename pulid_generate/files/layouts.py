"""Flux's numbers, and the names of its tensors in Black Forest Labs' spelling and in diffusers'.

Constants and tables, each once. Knows no file and no module; imports no torch.

Sources: black-forest-labs/flux src/flux/{model,util}.py and src/flux/modules/{layers,
autoencoder}.py; diffusers 0.42.1 transformer_flux.py and autoencoder_kl.py;
openai/clip-vit-large-patch14 and google/t5-v1_1-xxl config.json; ToTheBeginning/PuLID 1aa2fc7,
flux/model.py (the intervals).
"""

from __future__ import annotations

from dataclasses import dataclass

# of Flux and of PuLID's layers; the tensors give only heads * width
HEAD_WIDTH = 128
# of CLIP-L and T5 (d_kv)
TEXT_HEAD_WIDTH = 64

LATENT_CHANNELS = 16
# pixels per latent cell, along each axis
LATENT_SCALE = 8
# latent cells per image token, along each axis
PATCH = 2
# pixels per image token, along each axis
TOKEN_PIXELS = LATENT_SCALE * PATCH
# numbers per image token, as Flux reads and writes them
LATENT_WIDTH = LATENT_CHANNELS * PATCH * PATCH
# models whose input is wider, by that width: they read a second picture
VARIANTS = {384: "Flux Fill", 128: "Flux Canny or Depth"}

# tokens that T5 reads at most: BFL's length for dev; Flux was not trained beyond
T5_LONGEST = 512
# T5's one table of tokens, which files store under either name or under both
T5_TABLES = ("shared.weight", "encoder.embed_tokens.weight")

# PuLID's layers follow double blocks 0, 2, .. 18 and single blocks 0, 4, .. 36
DOUBLE_INTERVAL = 2
SINGLE_INTERVAL = 4

# Tensors that only this model has, in each spelling: Flux in BFL's and diffusers', T5 in Hugging
# Face's and llama.cpp's. The others have one.
FLUX_MARKER = ("img_in.weight", "x_embedder.weight")
VAE_MARKER = ("decoder.conv_in.weight",)
# the tiny autoencoder, as diffusers names it and in the file of its decoder alone: (width, latent
# channels, 3, 3)
TINY_MARKER = ("decoder.layers.0.weight", "1.weight")
# of Flux's latents: flux src/flux/util.py, AutoEncoderParams
SCALING_FACTOR, SHIFT_FACTOR = 0.3611, 0.1159
CLIP_MARKER = ("embeddings.token_embedding.weight",)
T5_MARKER = ("encoder.block.0.layer.0.SelfAttention.q.weight", "enc.blk.0.attn_q.weight")
# what a whole T5 has beside its encoder, in Hugging Face's spelling and in llama.cpp's
T5_DECODER = ("decoder.", "lm_head.", "dec.", "output.")
PULID_MARKER = ("pulid_ca.0.to_q.weight",)


def hook_places(double: int, single: int) -> int:
    """How many of PuLID's layers a Flux with so many double and single blocks has places for."""
    return -(-double // DOUBLE_INTERVAL) + -(-single // SINGLE_INTERVAL)


@dataclass(frozen=True)
class FluxShape:
    """What a Flux file's tensors say about the model, before any weight is read."""

    # channels of a token
    width: int
    # numbers of double and single blocks
    double: int
    single: int
    # channels of T5's states and of CLIP's pooled vector
    context: int
    pooled: int
    # True for dev (distilled guidance is an input), False for schnell
    guidance: bool


@dataclass(frozen=True)
class FluxNames:
    """The tensors and lists of blocks of one spelling that tell the model's sizes."""

    # projections of the latents, T5's states, CLIP's vector and the guidance
    latent: str
    context: str
    pooled: str
    guidance: str
    # a matrix of the first block
    first: str
    # lists of blocks
    double: str
    single: str


BFL_NAMES = FluxNames(
    latent="img_in.weight",
    context="txt_in.weight",
    pooled="vector_in.in_layer.weight",
    guidance="guidance_in.in_layer.weight",
    first="double_blocks.0.img_attn.qkv.weight",
    double="double_blocks",
    single="single_blocks",
)
DIFFUSERS_NAMES = FluxNames(
    latent="x_embedder.weight",
    context="context_embedder.weight",
    pooled="time_text_embed.text_embedder.linear_1.weight",
    guidance="time_text_embed.guidance_embedder.linear_1.weight",
    first="transformer_blocks.0.attn.to_q.weight",
    double="transformer_blocks",
    single="single_transformer_blocks",
)

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
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
}
# BFL: shift, scale; diffusers: scale, shift
FLUX_SWAPPED = "final_layer.adaLN_modulation.1"

# behind "double_blocks.N." and "single_blocks.N."
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

# BFL's name of a list of blocks -> diffusers' name, and the table of what is in a block
FLUX_BLOCKS = {
    "double_blocks": ("transformer_blocks", FLUX_DOUBLE),
    "single_blocks": ("single_transformer_blocks", FLUX_SINGLE),
}

# BFL autoencoder -> diffusers, as patterns; {up} counts from the other end, see models/autoencoder
VAE_NAMES = (
    (r"(encoder|decoder)\.(conv_in|conv_out)", r"\1.\2"),
    (r"(encoder|decoder)\.norm_out", r"\1.conv_norm_out"),
    (
        r"encoder\.down\.([0-9]{1,3})\.block\.([0-9]{1,3})\.(norm1|conv1|norm2|conv2)",
        r"encoder.down_blocks.\1.resnets.\2.\3",
    ),
    (
        r"encoder\.down\.([0-9]{1,3})\.block\.([0-9]{1,3})\.nin_shortcut",
        r"encoder.down_blocks.\1.resnets.\2.conv_shortcut",
    ),
    (
        r"encoder\.down\.([0-9]{1,3})\.downsample\.conv",
        r"encoder.down_blocks.\1.downsamplers.0.conv",
    ),
    (
        r"decoder\.up\.([0-9]{1,3})\.block\.([0-9]{1,3})\.(norm1|conv1|norm2|conv2)",
        r"decoder.up_blocks.\1.resnets.\2.\3",
    ),
    (
        r"decoder\.up\.([0-9]{1,3})\.block\.([0-9]{1,3})\.nin_shortcut",
        r"decoder.up_blocks.\1.resnets.\2.conv_shortcut",
    ),
    (r"decoder\.up\.([0-9]{1,3})\.upsample\.conv", r"decoder.up_blocks.\1.upsamplers.0.conv"),
    (r"(encoder|decoder)\.mid\.block_1\.(norm1|conv1|norm2|conv2)", r"\1.mid_block.resnets.0.\2"),
    (r"(encoder|decoder)\.mid\.block_2\.(norm1|conv1|norm2|conv2)", r"\1.mid_block.resnets.1.\2"),
    (r"(encoder|decoder)\.mid\.attn_1\.norm", r"\1.mid_block.attentions.0.group_norm"),
    (r"(encoder|decoder)\.mid\.attn_1\.([qkv])", r"\1.mid_block.attentions.0.to_\2"),
    (r"(encoder|decoder)\.mid\.attn_1\.proj_out", r"\1.mid_block.attentions.0.to_out.0"),
)
