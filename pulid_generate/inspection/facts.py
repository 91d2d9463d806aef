"""What the shapes in a model's header say about it, for each kind of model. Imports no torch.

Knows no file: shapes come by name, without a prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pulid_extract.shared.model_files import OTHER_PACK
from pulid_generate.files.layouts import (
    BFL_NAMES,
    CLIP_MARKER,
    DIFFUSERS_NAMES,
    LATENT_WIDTH,
    T5_TABLES,
    TINY_MARKER,
    VAE_MARKER,
    VARIANTS,
    FluxNames,
    hook_places,
)
from pulid_generate.files.storage import depth_of

T5_GGUF_TABLE = "token_embd.weight"

Shapes = Mapping[str, tuple[int, ...]]
Facts = dict[str, Any]


def facts_of(kind: str, shapes: Shapes) -> Facts:
    """What the shapes say of a model of this kind, by the names of model_files.kinds; nothing of a
    kind that is not known.
    """
    return FACTS[kind](shapes) if kind in FACTS else {}


def refusal_of(kind: str, shapes: Shapes) -> str:
    """Why the shapes make a model of this kind one that cannot be used here; "" if it can."""
    if kind not in FLUX_NAMES:
        return ""
    inputs = _axis(shapes, FLUX_NAMES[kind].latent, 1)
    if inputs is None or inputs == LATENT_WIDTH:
        return ""
    return f"its input is {inputs} wide, expected {LATENT_WIDTH}; use FLUX.1 dev or schnell"


def _axis(shapes: Shapes, name: str, axis: int) -> int | None:
    shape = shapes.get(name, ())
    return shape[axis] if len(shape) > axis else None


def _flux(shapes: Shapes, names: FluxNames) -> Facts:
    model = "dev (or Krea, Kontext)" if names.guidance in shapes else "schnell"
    double, single = depth_of(shapes, names.double), depth_of(shapes, names.single)
    return {
        "model": VARIANTS.get(_axis(shapes, names.latent, 1) or 0, model),
        "double_blocks": double,
        "single_blocks": single,
        "width": _axis(shapes, names.latent, 0),
        "text_width": _axis(shapes, names.context, 1),
        "hook_places": hook_places(double, single),
    }


def _pulid(shapes: Shapes) -> Facts:
    return {
        "layers": depth_of(shapes, "pulid_ca"),
        "width": _axis(shapes, "pulid_ca.0.norm2.weight", 0),
        "token_width": _axis(shapes, "pulid_ca.0.norm1.weight", 0),
        "id_tokens": _axis(shapes, "pulid_encoder.latents", 1),
        "encoder": "pulid_encoder.latents" in shapes,
    }


def _text_encoder(shapes: Shapes, blocks: str, table: str) -> Facts:
    return {
        "layers": depth_of(shapes, blocks),
        "width": _axis(shapes, table, 1),
        "vocabulary": _axis(shapes, table, 0),
    }


def _clip(shapes: Shapes) -> Facts:
    return _text_encoder(shapes, "encoder.layers", CLIP_MARKER[0])


def _t5(shapes: Shapes) -> Facts:
    for table in T5_TABLES:
        if table in shapes:
            return _text_encoder(shapes, "encoder.block", table)
    if T5_GGUF_TABLE in shapes:
        return _text_encoder(shapes, "enc.blk", T5_GGUF_TABLE)
    return _text_encoder(shapes, "encoder.block", "")


def _vae(shapes: Shapes) -> Facts:
    return {
        "latent_channels": _axis(shapes, VAE_MARKER[0], 1),
        "encoder": "encoder.conv_in.weight" in shapes,
    }


def _tiny(shapes: Shapes) -> Facts:
    decoder = next(name for name in TINY_MARKER if name in shapes)
    return {
        "latent_channels": _axis(shapes, decoder, 1),
        "encoder": "encoder.layers.0.weight" in shapes,
    }


def _networks(shapes: Shapes) -> Facts:
    return {"networks": ", ".join(sorted(shapes))}


# by the names of model_files.kinds
FLUX_NAMES = {"Flux transformer": BFL_NAMES, "diffusers Flux transformer": DIFFUSERS_NAMES}
FACTS: dict[str, Callable[[Shapes], Facts]] = {
    "Flux transformer": lambda shapes: _flux(shapes, BFL_NAMES),
    "diffusers Flux transformer": lambda shapes: _flux(shapes, DIFFUSERS_NAMES),
    "PuLID-FLUX file": _pulid,
    "CLIP-L text encoder": _clip,
    "T5 encoder": _t5,
    "T5 encoder in GGUF": _t5,
    "Flux autoencoder": _vae,
    "diffusers Flux autoencoder": _vae,
    "Flux tiny autoencoder": _tiny,
    "antelopev2 folder": _networks,
    OTHER_PACK: _networks,
}
