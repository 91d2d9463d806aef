"""The autoencoder's two ways: latents -> uint8 pictures, and back. Whole, or in tiles that fit the
memory.

Knows nothing of where latents come from or where pictures go.

Sources: black-forest-labs/flux src/flux/modules/autoencoder.py (scale and shift);
leejet/stable-diffusion.cpp, whose pictures are goldens: the rounding, src/runtime/tiling.cpp (where
tiles lie and how they are blended), src/model/vae/auto_encoder_kl.hpp (the encoder's noise).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pulid_generate.errors import CheckpointError, InputError

if TYPE_CHECKING:
    import numpy as np
import re

from pulid_extract.shared.model_files import Header
from pulid_generate.files.layouts import (
    LATENT_CHANNELS,
    LATENT_SCALE,
    VAE_MARKER,
    VAE_NAMES,
)
from pulid_generate.files.storage import depth_of, part_of
from pulid_generate.models.tensor_files import load_strictly, read_tensors, reject_unknown
from pulid_generate.models.tiles import tiled
from pulid_generate.request.tiling import Tiling


def decode(vae: Any, latents: Tensor, *, tiling: Tiling | None = None) -> np.ndarray:
    """vae: a diffusers AutoencoderKL. latents (1, 16, H/8, W/8), as the denoise loop leaves them ->
    (H, W, 3) uint8 RGB.

    tiling: decode overlapping tiles, blended: a fraction of the memory, and slightly other pixels.
    Raises CheckpointError if the picture is not finite.
    """
    scaled = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor

    def apply(tile: Tensor) -> Tensor:
        return vae.decode(tile, return_dict=False)[0].float()

    with torch.inference_mode():
        image = (
            apply(scaled) if tiling is None else tiled(apply, scaled, tiling, LATENT_SCALE, 1)
        )[0]
    if not torch.isfinite(image).all():
        raise CheckpointError(
            "the autoencoder gave NaN or infinite pixels; a damaged file, or float16 where --dtype bfloat16 is needed"
        )
    return (
        ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    )


def encode(
    vae: Any, image: np.ndarray, *, noise: Tensor | None = None, tiling: Tiling | None = None
) -> Tensor:
    """vae: a diffusers AutoencoderKL. image (H, W, 3) uint8 RGB, sides multiples of 8 -> latents
    (1, 16, H/8, W/8), float32, on the CPU.

    noise: standard normal latents that choose a sample of what the encoder allows, as sd-cli draws
    one; None takes the mean. The inverse of `decode`, as far as the autoencoder is one. Raises
    InputError for other sides, CheckpointError if not finite.
    """
    height, width = image.shape[:2]
    if height % LATENT_SCALE or width % LATENT_SCALE:
        raise InputError(
            f"the picture to start from is {width}x{height} pixels; the autoencoder takes multiples of {LATENT_SCALE}"
        )
    pixels = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1).to(
        vae.device, vae.dtype
    )

    def apply(tile: Tensor) -> Tensor:
        # mean and log variance, (1, 32, h, w)
        return vae.encode(tile, return_dict=False)[0].parameters.float()

    with torch.inference_mode():
        moments = (
            apply(pixels) if tiling is None else tiled(apply, pixels, tiling, 1, LATENT_SCALE)
        ).cpu()
        mean, log_variance = moments.chunk(2, dim=1)
        latents = (
            mean if noise is None else mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise
        )
    if not torch.isfinite(latents).all():
        raise CheckpointError(
            "the autoencoder gave NaN or infinite latents; a damaged file, or float16 where --dtype bfloat16 is needed"
        )
    return (latents - vae.config.shift_factor) * vae.config.scaling_factor


# -------------------------------------------------------------------------------------------- tiles


SCALING_FACTOR, SHIFT_FACTOR = 0.3611, 0.1159  # flux src/flux/util.py, AutoEncoderParams


NORM_GROUPS = 32  # flux src/flux/modules/autoencoder.py


def load_vae(header: Header, dtype: torch.dtype, device: torch.device | str = "cpu") -> Any:
    """The autoencoder of a file or a diffusers folder as a diffusers AutoencoderKL in eval mode.
    Raises CheckpointError.
    """
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
        latent = shapes[VAE_MARKER[0]][1]
    except KeyError as error:
        raise CheckpointError(
            f"{header.path}: missing {error.args[0]}; the file is incomplete, download it again"
        ) from None
    scaling = (
        part.metadata.get("scaling_factor", SCALING_FACTOR)
        if header.format == "diffusers folder"
        else SCALING_FACTOR
    )
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
        target = vae_name(name, levels) if bfl else name
        if target is None:
            unknown.append(name)
            continue
        # BFL writes the attention's projections as 1x1 convolutions
        state[target] = (
            tensor.flatten(1) if ".attentions." in target and tensor.ndim == 4 else tensor
        )
    reject_unknown(header, unknown)
    return load_strictly(model, state, header)


def vae_name(name: str, levels: int) -> str | None:
    layer, _, leaf = name.rpartition(".")
    for pattern, target in VAE_NAMES:
        match = re.fullmatch(pattern, layer)
        if match:
            found = match.expand(target)
            # BFL numbers the decoder's levels from the finest, diffusers in the order they run
            return (
                re.sub(r"up_blocks\.(\d+)", lambda m: f"up_blocks.{levels - 1 - int(m[1])}", found)
                + f".{leaf}"
            )
    return None
