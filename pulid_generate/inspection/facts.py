"""TODO"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pulid_generate.files.layouts import LATENT_WIDTH, VARIANTS, hook_places
from pulid_generate.files.storage import depth_of

# T5's one table, which t5xxl_fp16 holds under both names
EMBEDDING_TWICE = ("shared.weight", "encoder.embed_tokens.weight")


Shapes = Mapping[str, tuple[int, ...]]


def _axis(shapes: Shapes, name: str, axis: int) -> int | None:
    shape = shapes.get(name, ())
    return shape[axis] if len(shape) > axis else None


def _flux(names: tuple[str, str, str, str, str]) -> Callable[[Shapes], dict[str, Any]]:
    """names: of the image input, the text input, the double and single blocks, and what only dev
    has.
    """

    def facts(shapes: Shapes) -> dict[str, Any]:
        image, text, doubles, singles, guidance = names
        double, single, inputs = (
            depth_of(shapes, doubles),
            depth_of(shapes, singles),
            _axis(shapes, image, 1),
        )
        variant = VARIANTS.get(inputs or 0)
        found = {
            "model": variant
            or (
                "dev (or Krea, Kontext)"
                if any(name.startswith(guidance) for name in shapes)
                else "schnell"
            ),
            "double_blocks": double,
            "single_blocks": single,
            "width": _axis(shapes, image, 0),
            "text_width": _axis(shapes, text, 1),
            "hook_places": hook_places(double, single),
        }
        if inputs is not None and inputs != LATENT_WIDTH:
            found["refusal"] = (
                f"its input is {inputs} wide, expected {LATENT_WIDTH}; use FLUX.1 dev or schnell"
            )
        return found

    return facts


def _pulid(shapes: Shapes) -> dict[str, Any]:
    return {
        "layers": depth_of(shapes, "pulid_ca"),
        "width": _axis(shapes, "pulid_ca.0.norm2.weight", 0),
        "token_width": _axis(shapes, "pulid_ca.0.norm1.weight", 0),
        "id_tokens": _axis(shapes, "pulid_encoder.latents", 1),
        "encoder": "pulid_encoder.latents" in shapes,
    }


def _tower(blocks: str, table: str) -> Callable[[Shapes], dict[str, Any]]:
    return lambda shapes: {
        "layers": depth_of(shapes, blocks),
        "width": _axis(shapes, table, 1),
        "vocabulary": _axis(shapes, table, 0),
    }


def _clip(shapes: Shapes) -> dict[str, Any]:
    return _tower("encoder.layers", "embeddings.token_embedding.weight")(shapes)


def _t5(shapes: Shapes) -> dict[str, Any]:
    table = next((name for name in (*EMBEDDING_TWICE, "token_embd.weight") if name in shapes), "")
    return _tower("enc.blk" if table == "token_embd.weight" else "encoder.block", table)(shapes)


def _vae(shapes: Shapes) -> dict[str, Any]:
    return {
        "latent_channels": _axis(shapes, "decoder.conv_in.weight", 1),
        "encoder": "encoder.conv_in.weight" in shapes,
    }


FACTS: dict[str, Callable[[Shapes], dict[str, Any]]] = {
    "Flux transformer": _flux(
        ("img_in.weight", "txt_in.weight", "double_blocks", "single_blocks", "guidance_in.")
    ),
    "diffusers Flux transformer": _flux(
        (
            "x_embedder.weight",
            "context_embedder.weight",
            "transformer_blocks",
            "single_transformer_blocks",
            "time_text_embed.guidance_embedder.",
        )
    ),
    "PuLID-FLUX file": _pulid,
    "CLIP-L text encoder": _clip,
    "T5 encoder": _t5,
    "T5 encoder in GGUF": _t5,
    "Flux autoencoder": _vae,
    "diffusers Flux autoencoder": _vae,
    "antelopev2 folder": lambda shapes: {"networks": ", ".join(sorted(shapes))},
}
