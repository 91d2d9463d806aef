"""Flux files, in Black Forest Labs' layout or in diffusers' -> diffusers' model. Every size is read
from the tensors.

Name maps are tables (files/layouts), loading is strict. Knows nothing of prompts, identities or
where a model will run next.

Sources: black-forest-labs/flux src/flux/{model,modules/layers}.py (names and order of fused rows);
diffusers 0.42.1 transformer_flux.py (target names, and what its config.json says).
"""

from __future__ import annotations

import re
from typing import Any

import torch

from pulid_extract.shared.model_files import Header
from pulid_generate.errors import CheckpointError
from pulid_generate.files.layouts import (
    BFL_NAMES,
    DIFFUSERS_NAMES,
    FLUX_BLOCKS,
    FLUX_MARKER,
    FLUX_SWAPPED,
    FLUX_TOP,
    HEAD_WIDTH,
    LATENT_WIDTH,
    VARIANTS,
    FluxNames,
    FluxShape,
)
from pulid_generate.files.storage import check_storage, flux_shape_of, part_of
from pulid_generate.models.tensor_files import (
    incomplete,
    load_strictly,
    read_tensors,
    reject_unknown,
)
from pulid_generate.networks.flux import FluxTransformer
from pulid_generate.packed.layers import PACKED, keep_packed, swap_halves


def flux_shape(header: Header) -> FluxShape:
    """Read a Flux file's sizes from its header. Raises CheckpointError for a variant that cannot be
    used, by name.
    """
    part = part_of(header, FLUX_MARKER)
    check_storage(part)
    shapes = {name: shape for name, (_, shape) in part.tensors.items()}
    names = _names_of(part)
    needed = (names.latent, names.context, names.pooled, names.first)
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise incomplete(header, ", ".join(missing))
    if any(len(shapes[name]) != 2 for name in needed):
        raise CheckpointError(
            f"{header.path}: its matrices are not two-dimensional; "
            "the file is damaged, download it again"
        )
    _check_input(header, shapes[names.latent][1])
    shape = flux_shape_of(shapes, names)
    if shape.width % HEAD_WIDTH:
        raise CheckpointError(
            f"{header.path}: width {shape.width} is not a multiple of the head width {HEAD_WIDTH}"
        )
    if header.format == "diffusers folder":
        _check_input(header, part.metadata.get("in_channels", LATENT_WIDTH))
        _check_config(part, shape)
    return shape


def _check_input(header: Header, width: Any) -> None:
    """width: of a tensor, or whatever a config.json calls so."""
    if width != LATENT_WIDTH:
        known = VARIANTS.get(width) if isinstance(width, int) else None
        raise CheckpointError(
            f"{header.path}: is {known or 'not a Flux text-to-image model'} "
            f"(input width {width}, expected {LATENT_WIDTH}); use FLUX.1 dev or schnell"
        )


def _names_of(part: Header) -> FluxNames:
    return BFL_NAMES if BFL_NAMES.latent in part.tensors else DIFFUSERS_NAMES


def _check_config(part: Header, shape: FluxShape) -> None:
    """Raise CheckpointError if a folder's config.json describes another model than its tensors
    do.
    """
    sizes = {
        "num_layers": shape.double,
        "num_single_layers": shape.single,
        "guidance_embeds": shape.guidance,
        "joint_attention_dim": shape.context,
        "pooled_projection_dim": shape.pooled,
    }
    for key, size in sizes.items():
        stated = part.metadata.get(key, size)
        if stated != size:
            raise CheckpointError(
                f"{part.path}: config.json says {key} {stated}, the tensors {size}; "
                "they do not belong together, download the folder again"
            )


def load_flux(
    header: Header,
    dtype: torch.dtype | None,
    device: torch.device | str = "cpu",
    *,
    dequantize: bool = False,
) -> FluxTransformer:
    """The transformer of a safetensors or GGUF file or a diffusers folder in eval mode, on
    `device`.

    dtype: of every plain weight; None keeps what the file has. Matrices in fp8 and in ggml's
    quantised types stay as stored and are widened once per forward. dequantize: turn them into
    `dtype` now (for None: fp8 into bfloat16, ggml's into float16). Raises CheckpointError.
    """
    shape = flux_shape(header)
    # this model has no buffers, so nothing stays on meta after a strict load
    with torch.device("meta"):
        model = FluxTransformer(
            width=shape.width,
            double=shape.double,
            single=shape.single,
            latent=LATENT_WIDTH,
            context=shape.context,
            pooled=shape.pooled,
            guidance=shape.guidance,
        )
    state: dict[str, Any] = {}
    unknown = []
    bfl = _names_of(part_of(header, FLUX_MARKER)) is BFL_NAMES
    for name, tensor in read_tensors(header, FLUX_MARKER, device, dtype, packed=not dequantize):
        targets = flux_targets(name) if bfl else [name]
        if targets is None:
            unknown.append(name)
            continue
        parts = flux_rows(name, tensor, len(targets), shape.width) if bfl else [tensor]
        state.update(zip(targets, parts, strict=True))
    reject_unknown(header, unknown)
    weights = {name: state.pop(name) for name in list(state) if isinstance(state[name], PACKED)}
    try:
        keep_packed(model, weights)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{header.path}: {error}; not a complete file of its kind") from None
    return load_strictly(model, state, header)


def flux_targets(name: str) -> list[str] | None:
    """diffusers parameter names for one BFL name (without prefix), in row order; None if the name
    is unknown.
    """
    layer, _, leaf = name.rpartition(".")
    if leaf == "scale":
        leaf = "weight"
    match = re.fullmatch(r"(double_blocks|single_blocks)\.([0-9]{1,3})\.(.+)", layer)
    if match:
        blocks, table = FLUX_BLOCKS[match[1]]
        layers = [f"{blocks}.{match[2]}.{target}" for target in table.get(match[3], ())]
    else:
        layers = list(FLUX_TOP.get(layer, ()))
    return [f"{target}.{leaf}" for target in layers] or None


def flux_rows(name: str, tensor: Any, parts: int, width: int) -> list[Any]:
    """The rows of a BFL tensor for each of its `parts` in diffusers.

    tensor: a Tensor or a packed weight; both split by rows.
    """
    if name.startswith(FLUX_SWAPPED):
        if isinstance(tensor, PACKED):
            return [swap_halves(tensor)]
        return [torch.cat(tensor.chunk(2)[::-1])]
    # of the MLP, where there are four parts
    rest = tensor.shape[0] - 3 * width
    if parts == 1 or rest < 0 or (rest == 0) != (parts == 3):
        # a wrong shape is reported with the others, by load_strictly
        return [tensor] * parts
    return list(tensor.split([width] * 3 + [rest] * (parts - 3)))
