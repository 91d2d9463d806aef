"""Whose layer a LoRA's name means: the spellings of kohya, peft, diffusers, ComfyUI, XLabs and
OneTrainer, as tables.

Knows no file and no tensor. diffusers' own converters (loaders/lora_conversion_utils.py) are not
used: they have Flux's width and depths written into them, and drop what they do not know with a log
line. Theirs and these agree on a Flux of the public width (a test).

Sources: kohya-ss/sd-scripts networks/lora_flux.py (lora_unet_, lora_te1_ CLIP, lora_te3_ T5; BFL's
names with underscores); diffusers 0.42.1 loaders/lora_pipeline.py (transformer., text_encoder.) and
lora_conversion_utils.py (XLabs' processors, lora_transformer_ of OneTrainer, the swapped halves of
the last modulation); ComfyUI comfy/lora.py (diffusion_model., text_encoders.); DiffSynth-Studio
diffsynth/models/flux_dit.py (its own names).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pulid_generate.files.layouts import (
    FLUX_BLOCKS,
    FLUX_SWAPPED,
    FLUX_TOP,
    LATENT_WIDTH,
    FluxShape,
)
from pulid_generate.files.model import Model
from pulid_generate.files.storage import depth_of

# prefix -> model; the first that fits. A name without any of them is Flux's.
PREFIXES = (
    # peft's wrapper: what follows may have a prefix of its own
    ("base_model.model.", None),
    ("transformer.", Model.FLUX),
    ("model.diffusion_model.", Model.FLUX),
    ("diffusion_model.", Model.FLUX),
    ("lora_transformer_", Model.FLUX),
    # extracted from a whole checkpoint
    ("lora_unet_model_diffusion_model_", Model.FLUX),
    ("lora_unet_", Model.FLUX),
    ("lycoris_", Model.FLUX),
    ("text_encoders.clip_l.transformer.", Model.CLIP),
    ("text_encoders.t5xxl.transformer.", Model.T5),
    ("text_encoder_2.", Model.T5),
    ("text_encoder.", Model.CLIP),
    ("lora_te1_", Model.CLIP),
    ("lora_te2_", Model.T5),
    ("lora_te3_", Model.T5),
    ("lora_te_", Model.CLIP),
)
BARE_CLIP = "text_model."
# of Flux; dev alone has them
GUIDANCE_LAYERS = (
    "time_text_embed.guidance_embedder.linear_1",
    "time_text_embed.guidance_embedder.linear_2",
)

# XLabs: one low-rank pair for the fused q, k, v of a block, one for its projection
IMAGE_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
XLABS = {
    "double_blocks": {
        "processor.qkv_lora1": IMAGE_QKV,
        "processor.qkv_lora2": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        "processor.proj_lora1": ("attn.to_out.0",),
        "processor.proj_lora2": ("attn.to_add_out",),
    },
    "single_blocks": {"processor.qkv_lora": IMAGE_QKV, "processor.proj_lora": ("proj_out",)},
}
# DiffSynth-Studio: BFL's fused layers under names of its own; blocks, and what is in one
DIFFSYNTH = {
    "double_blocks": (
        "blocks",
        {
            "img_mod.lin": "norm1_a.linear",
            "txt_mod.lin": "norm1_b.linear",
            "img_attn.qkv": "attn.a_to_qkv",
            "txt_attn.qkv": "attn.b_to_qkv",
            "img_attn.proj": "attn.a_to_out",
            "txt_attn.proj": "attn.b_to_out",
            "img_mlp.0": "ff_a.0",
            "img_mlp.2": "ff_a.2",
            "txt_mlp.0": "ff_b.0",
            "txt_mlp.2": "ff_b.2",
        },
    ),
    "single_blocks": (
        "single_blocks",
        {"modulation.lin": "norm.linear", "linear1": "to_qkv_mlp", "linear2": "proj_out"},
    ),
}
# the projection comes after the pooled vector that Flux reads, so a LoRA of it changes nothing
UNUSED = {
    Model.CLIP: frozenset(
        ("text_projection", "text_model.text_projection", "text_model_text_projection")
    )
}

# (outputs, inputs) of Flux's linear layers, in multiples of the width; what is none stands
# in `flux_layers`. Source: diffusers 0.42.1 models/transformers/transformer_flux.py
SQUARE = (1, 1)
DOUBLE_LAYERS = {
    **dict.fromkeys(("norm1.linear", "norm1_context.linear"), (6, 1)),
    **dict.fromkeys(("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"), SQUARE),
    **dict.fromkeys(
        ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"), SQUARE
    ),
    **dict.fromkeys(("ff.net.0.proj", "ff_context.net.0.proj"), (4, 1)),
    **dict.fromkeys(("ff.net.2", "ff_context.net.2"), (1, 4)),
}
SINGLE_LAYERS = {
    "norm.linear": (3, 1),
    **dict.fromkeys(("attn.to_q", "attn.to_k", "attn.to_v"), SQUARE),
    "proj_mlp": (4, 1),
    "proj_out": (1, 5),
}
TIMESTEP_CHANNELS = 256


def flux_layers(shape: FluxShape) -> dict[str, tuple[int, int]]:
    """name -> (outputs, inputs) of every linear layer of a Flux, from its header's sizes: to check
    a LoRA before any weight is read.
    """
    width, embedding = shape.width, "time_text_embed"
    layers = {"x_embedder": (width, LATENT_WIDTH), "context_embedder": (width, shape.context)}
    embedders = {"timestep": TIMESTEP_CHANNELS, "text": shape.pooled}
    if shape.guidance:
        embedders["guidance"] = TIMESTEP_CHANNELS
    for name, inputs in embedders.items():
        layers[f"{embedding}.{name}_embedder.linear_1"] = (width, inputs)
        layers[f"{embedding}.{name}_embedder.linear_2"] = (width, width)
    for blocks, count, table in (
        ("transformer_blocks", shape.double, DOUBLE_LAYERS),
        ("single_transformer_blocks", shape.single, SINGLE_LAYERS),
    ):
        for index in range(count):
            for name, (outputs, inputs) in table.items():
                layers[f"{blocks}.{index}.{name}"] = (outputs * width, inputs * width)
    return layers | {"norm_out.linear": (2 * width, width), "proj_out": (LATENT_WIDTH, width)}


@dataclass(frozen=True)
class Target:
    """The layers that one pair of matrices belongs to."""

    # their output rows stand one after the other
    layers: tuple[str, ...]
    # whether the halves of the rows are exchanged
    swapped: bool = False


def split_prefix(name: str) -> tuple[Model, str]:
    """(model, the rest) of a layer's name in a file."""
    if name.startswith(BARE_CLIP):
        return Model.CLIP, name
    for prefix, model in PREFIXES:
        if name.startswith(prefix):
            # some trainers leave the underscore that stood before the leaf
            rest = name[len(prefix) :].rstrip("_")
            return split_prefix(rest) if model is None else (model, rest)
    return Model.FLUX, name


def targets(model: Model, layers: Iterable[str]) -> dict[str, Target]:
    """Every spelling of every layer of a model -> its target.

    layers: the names of the linear layers, in diffusers' or transformers' spelling.
    """
    layers = list(layers)
    table: dict[str, Target] = {}
    for name, target in _spellings(model, layers):
        table[name] = table[name.replace(".", "_")] = target
    return table


def _spellings(model: Model, layers: list[str]) -> Iterator[tuple[str, Target]]:
    for layer in layers:
        yield layer, Target((layer,))
    if model is Model.CLIP:
        # transformers 5 dropped the prefix that every file has
        for layer in layers:
            if not layer.startswith(BARE_CLIP):
                yield f"{BARE_CLIP}{layer}", Target((layer,))
    elif model is Model.FLUX:
        yield from _bfl_spellings(layers)


def _bfl_spellings(layers: list[str]) -> Iterator[tuple[str, Target]]:
    known = set(layers)
    for name, layer in FLUX_TOP.items():
        # schnell has no guidance_in
        if known.issuperset(layer):
            yield name, Target(layer, swapped=name == FLUX_SWAPPED)
    for blocks, (target_blocks, table) in FLUX_BLOCKS.items():
        for index in range(depth_of(layers, target_blocks)):
            for name, parts in {**table, **XLABS[blocks]}.items():
                target = Target(tuple(f"{target_blocks}.{index}.{part}" for part in parts))
                # the norms are not linear layers
                if not known.issuperset(target.layers):
                    continue
                yield f"{blocks}.{index}.{name}", target
                own_blocks, own_names = DIFFSYNTH[blocks]
                if name in own_names:
                    yield f"{own_blocks}.{index}.{own_names[name]}", target
