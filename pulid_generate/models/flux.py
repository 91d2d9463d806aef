"""Flux and autoencoder files, in Black Forest Labs' layout or in diffusers' -> diffusers models. Every size is read from the tensors.

Name maps are tables, loading is strict. Knows nothing of prompts, identities or where a model will run next.

Sources: black-forest-labs/flux src/flux/{model,modules/layers,modules/autoencoder}.py (names and order of fused rows);
diffusers 0.42.1 transformer_flux.py and autoencoder_kl.py (target names, and what their config.json says).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pulid_extract.shared.model_files import Header
from pulid_generate.errors import CheckpointError
from pulid_generate.models.tensor_files import check_storage, depth_of, load_strictly, part_of, read_tensors, reject_unknown
from pulid_generate.packed.layers import PACKED, keep_packed, swap_halves

# tensors that only these models have; Flux in BFL's spelling and in diffusers', the autoencoder's is the same in both
FLUX_MARKER, VAE_MARKER = ("img_in.weight", "x_embedder.weight"), "decoder.conv_in.weight"
HEAD_WIDTH = 128
ROPE_AXES = (16, 56, 56)  # rotary channels for index, row, column: flux src/flux/util.py, axes_dim
LATENT_CHANNELS = 16
LATENT_WIDTH = 64  # 16 channels x 2 x 2
VARIANTS = {384: "Flux Fill", 128: "Flux Canny or Depth"}  # by input width: they read a second picture
SCALING_FACTOR, SHIFT_FACTOR = 0.3611, 0.1159  # flux src/flux/util.py, AutoEncoderParams
NORM_GROUPS = 32  # flux src/flux/modules/autoencoder.py

# BFL name -> diffusers names; several names: the rows are q, k, v (and the MLP's) one after the other.
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
    """The tensors of a layout that tell the model's sizes: input, text, pooled and guidance projections, a first block; the block lists."""

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
    (r"encoder\.down\.(\d+)\.block\.(\d+)\.(norm1|conv1|norm2|conv2)", r"encoder.down_blocks.\1.resnets.\2.\3"),
    (r"encoder\.down\.(\d+)\.block\.(\d+)\.nin_shortcut", r"encoder.down_blocks.\1.resnets.\2.conv_shortcut"),
    (r"encoder\.down\.(\d+)\.downsample\.conv", r"encoder.down_blocks.\1.downsamplers.0.conv"),
    (r"decoder\.up\.(\d+)\.block\.(\d+)\.(norm1|conv1|norm2|conv2)", r"decoder.up_blocks.\1.resnets.\2.\3"),
    (r"decoder\.up\.(\d+)\.block\.(\d+)\.nin_shortcut", r"decoder.up_blocks.\1.resnets.\2.conv_shortcut"),
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


def flux_shape(header: Header) -> FluxShape:
    """Read a Flux file's sizes from its header. Raises CheckpointError for a variant that cannot be used, by name."""
    part = part_of(header, FLUX_MARKER)
    check_storage(part)
    shapes = {name: shape for name, (_, shape) in part.tensors.items()}
    names = _names_of(part)
    needed = (names.latent, names.context, names.pooled, names.first)
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise CheckpointError(f"{header.path}: missing {', '.join(missing)}; the file is incomplete, download it again")
    if any(len(shapes[name]) != 2 for name in needed):
        raise CheckpointError(f"{header.path}: its matrices are not two-dimensional; the file is damaged, download it again")
    width, latent = shapes[names.latent]
    for found in (latent, part.metadata.get("in_channels", LATENT_WIDTH) if header.format == "diffusers folder" else latent):
        if found != LATENT_WIDTH:
            raise CheckpointError(
                f"{header.path}: is {VARIANTS.get(found, 'no Flux text-to-image model')} (input width {found}, "
                f"expected {LATENT_WIDTH}); use FLUX.1 dev or schnell"
            )
    if width % HEAD_WIDTH:
        raise CheckpointError(f"{header.path}: width {width} is no multiple of the head width {HEAD_WIDTH}")
    shape = FluxShape(
        width=width,
        double=depth_of(shapes, names.double),
        single=depth_of(shapes, names.single),
        context=shapes[names.context][1],
        pooled=shapes[names.pooled][1],
        guidance=names.guidance in shapes,
    )
    if header.format == "diffusers folder":
        _check_config(part, shape)
    return shape


def _names_of(part: Header) -> FluxNames:
    return BFL_NAMES if BFL_NAMES.latent in part.tensors else DIFFUSERS_NAMES


def _check_config(part: Header, shape: FluxShape) -> None:
    """Raise CheckpointError if a folder's config.json describes another model than its tensors do."""
    for key, found in (
        ("num_layers", shape.double),
        ("num_single_layers", shape.single),
        ("guidance_embeds", shape.guidance),
        ("joint_attention_dim", shape.context),
        ("pooled_projection_dim", shape.pooled),
    ):
        said = part.metadata.get(key, found)
        if said != found:
            raise CheckpointError(
                f"{part.path}: config.json says {key} {said}, the tensors {found}; they do not belong together, download the folder again"
            )


def load_flux(header: Header, dtype: torch.dtype | None, device: torch.device | str = "cpu", *, dequantize: bool = False) -> Any:
    """The transformer of a safetensors or GGUF file or a diffusers folder as a diffusers FluxTransformer2DModel in eval mode, on `device`.

    dtype: of every plain weight; None keeps what the file has. Matrices in fp8 and in ggml's quantised types stay as stored and are
    widened once per forward. dequantize: turn them into `dtype` now (for None: fp8 into bfloat16, ggml's into float16).
    Raises CheckpointError.
    """
    from diffusers import FluxTransformer2DModel

    shape = flux_shape(header)
    model: Any
    with torch.device("meta"):  # this model has no buffers, so nothing stays on meta after a strict load
        model = FluxTransformer2DModel(
            patch_size=1,
            in_channels=LATENT_WIDTH,
            num_layers=shape.double,
            num_single_layers=shape.single,
            attention_head_dim=HEAD_WIDTH,
            num_attention_heads=shape.width // HEAD_WIDTH,
            joint_attention_dim=shape.context,
            pooled_projection_dim=shape.pooled,
            guidance_embeds=shape.guidance,
            axes_dims_rope=ROPE_AXES,
        )
    state: dict[str, Any] = {}
    unknown = []
    bfl = _names_of(part_of(header, FLUX_MARKER)) is BFL_NAMES
    for name, tensor in read_tensors(header, FLUX_MARKER, device, dtype, packed=not dequantize):
        targets = flux_targets(name) if bfl else [name]
        if targets is None:
            unknown.append(name)
            continue
        parts = _flux_rows(name, tensor, len(targets), shape.width) if bfl else [tensor]
        state.update(zip(targets, parts, strict=True))
    reject_unknown(header, unknown)
    weights = {name: state.pop(name) for name in list(state) if isinstance(state[name], PACKED)}
    try:
        keep_packed(model, weights)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{header.path}: {error}; not a complete file of its kind") from None
    return load_strictly(model, state, header)


def flux_targets(name: str) -> list[str] | None:
    """diffusers parameter names for one BFL name (without prefix), in row order; None if the name is unknown."""
    layer, _, leaf = name.rpartition(".")
    leaf = {"scale": "weight"}.get(leaf, leaf)
    match = re.fullmatch(r"(double_blocks|single_blocks)\.(\d+)\.(.+)", layer)
    if match:
        blocks, table = FLUX_BLOCKS[match[1]]
        layers = [f"{blocks}.{match[2]}.{target}" for target in table.get(match[3], ())]
    else:
        layers = list(FLUX_TOP.get(layer, ()))
    return [f"{target}.{leaf}" for target in layers] or None


def _flux_rows(name: str, tensor: Any, parts: int, width: int) -> list[Any]:
    """tensor: a Tensor or a packed weight; both split by rows."""
    if name.startswith("final_layer.adaLN_modulation"):  # BFL: shift, scale; diffusers' AdaLayerNormContinuous: scale, shift
        return [swap_halves(tensor) if isinstance(tensor, PACKED) else torch.cat(tensor.chunk(2)[::-1])]
    rest = tensor.shape[0] - 3 * width  # of the MLP, where there are four parts
    if parts == 1 or rest < 0 or (rest == 0) != (parts == 3):
        return [tensor] * parts  # a wrong shape is reported with the others, by load_strictly
    return list(tensor.split([width] * 3 + [rest] * (parts - 3)))


def load_vae(header: Header, dtype: torch.dtype, device: torch.device | str = "cpu") -> Any:
    """The autoencoder of a file or a diffusers folder as a diffusers AutoencoderKL in eval mode. Raises CheckpointError."""
    from diffusers import AutoencoderKL

    part = part_of(header, VAE_MARKER)
    shapes = {name: shape for name, (_, shape) in part.tensors.items()}
    bfl = "decoder.mid.attn_1.q.weight" in shapes
    first, blocks = (
        ("encoder.down.{}.block.0.conv1.weight", "encoder.down.0.block")
        if bfl
        else ("encoder.down_blocks.{}.resnets.0.conv1.weight", "encoder.down_blocks.0.resnets")
    )
    levels = depth_of(shapes, first.partition(".{}")[0])
    try:
        channels = [shapes[first.format(level)][0] for level in range(levels)]
        latent = shapes[VAE_MARKER][1]
    except KeyError as error:
        raise CheckpointError(f"{header.path}: missing {error.args[0]}; the file is incomplete, download it again") from None
    scaling = part.metadata.get("scaling_factor", SCALING_FACTOR) if header.format == "diffusers folder" else SCALING_FACTOR
    if latent != LATENT_CHANNELS or scaling != SCALING_FACTOR:
        raise CheckpointError(
            f"{header.path}: is the autoencoder of another model (latents of {latent} channels, scaled by {scaling}; Flux has "
            f"{LATENT_CHANNELS}, scaled by {SCALING_FACTOR}); use Flux's ae.safetensors"
        )
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(channels),
        layers_per_block=depth_of(shapes, blocks),
        latent_channels=latent,
        norm_num_groups=NORM_GROUPS,
        scaling_factor=SCALING_FACTOR,
        shift_factor=SHIFT_FACTOR,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    state: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in read_tensors(header, VAE_MARKER, device, dtype):
        target = _vae_name(name, levels) if bfl else name
        if target is None:
            unknown.append(name)
            continue
        # BFL writes the attention's projections as 1x1 convolutions
        state[target] = tensor.flatten(1) if ".attentions." in target and tensor.ndim == 4 else tensor
    reject_unknown(header, unknown)
    return load_strictly(model, state, header)


def _vae_name(name: str, levels: int) -> str | None:
    layer, _, leaf = name.rpartition(".")
    for pattern, target in VAE_NAMES:
        match = re.fullmatch(pattern, layer)
        if match:
            found = match.expand(target)
            # BFL numbers the decoder's levels from the finest, diffusers in the order they run
            return re.sub(r"up_blocks\.(\d+)", lambda m: f"up_blocks.{levels - 1 - int(m[1])}", found) + f".{leaf}"
    return None
