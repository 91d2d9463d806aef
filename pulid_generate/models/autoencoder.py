"""Flux's autoencoder: from its file, and its two ways: latents -> uint8 pictures, and back. Whole,
or in tiles that fit the memory.

Knows nothing of where latents come from or where pictures go.

Shapes: H, W pixels of a picture; latents are (1, 16, H/8, W/8).

Sources: black-forest-labs/flux src/flux/modules/autoencoder.py (scale, shift, names); diffusers
0.42.1 autoencoder_kl.py; leejet/stable-diffusion.cpp, whose pictures are goldens: the rounding,
src/runtime/tiling.cpp, src/model/vae/auto_encoder_kl.hpp (the encoder's noise).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from pulid_extract.shared.model_files import Header
from pulid_generate.errors import CheckpointError, InputError
from pulid_generate.files.layouts import (
    LATENT_CHANNELS,
    LATENT_SCALE,
    SCALING_FACTOR,
    SHIFT_FACTOR,
    VAE_MARKER,
    VAE_NAMES,
)
from pulid_generate.files.storage import depth_of, part_of
from pulid_generate.models.tensor_files import (
    incomplete,
    load_strictly,
    read_tensors,
    reject_unknown,
)
from pulid_generate.models.tiles import tiled
from pulid_generate.models.tiny_autoencoder import TINY_ENCODER_TENSOR, is_tiny, load_tiny
from pulid_generate.networks import autoencoder
from pulid_generate.request.tiling import Tiling

if TYPE_CHECKING:
    import numpy as np

# what the logarithm of a variance is cut to, as in sd-cli and in diffusers
LOG_VARIANCE = (-30.0, 20.0)
# one that every encoder has, in BFL's names and in diffusers'
ENCODER_TENSOR = "encoder.conv_in.weight"
NOT_FINITE = "a damaged file, or float16 where --dtype bfloat16 is needed"


class Autoencoder(Protocol):
    """What `networks.autoencoder.Autoencoder` and the tiny one have in common."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def encode(self, pixels: Tensor) -> Tensor:
        """Mean and log variance (B, 32, h, w) of pixels (B, 3, 8h, 8w) in -1..1."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, 8h, 8w), about -1..1, of latents (B, 16, h, w)."""


def decode(vae: Autoencoder, latents: Tensor, *, tiling: Tiling | None = None) -> np.ndarray:
    """Latents, as the denoise loop leaves them -> (H, W, 3) uint8 RGB.

    tiling: decode overlapping tiles, blended: a fraction of the memory, and slightly other pixels.
    Raises CheckpointError if the picture is not finite.
    """
    scaled = latents.to(vae.device, vae.dtype) / SCALING_FACTOR + SHIFT_FACTOR

    def decode_part(part: Tensor) -> Tensor:
        return vae.decode(part).float()

    with torch.inference_mode():
        if tiling is None:
            image = decode_part(scaled)[0]
        else:
            image = tiled(decode_part, scaled, tiling, LATENT_SCALE, 1)[0]
    if not torch.isfinite(image).all():
        raise CheckpointError(f"the autoencoder gave NaN or infinite pixels; {NOT_FINITE}")
    pixels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(1, 2, 0).cpu().numpy()


def encode(
    vae: Autoencoder,
    image: np.ndarray,
    *,
    noise: Tensor | None = None,
    tiling: Tiling | None = None,
) -> Tensor:
    """(H, W, 3) uint8 RGB, sides multiples of 8 -> latents, float32, on the CPU. The inverse of
    `decode`, as far as the autoencoder is one.

    noise: standard normal latents that choose a sample of what the encoder allows, as sd-cli draws
    one; None takes the mean. tiling: as for `decode`. Raises InputError for other sides,
    CheckpointError if the latents are not finite.
    """
    height, width = image.shape[:2]
    if height % LATENT_SCALE or width % LATENT_SCALE:
        raise InputError(
            f"the picture to start from is {width}x{height} pixels; "
            f"the autoencoder takes multiples of {LATENT_SCALE}"
        )
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    pixels = pixels.to(vae.device, vae.dtype)

    def encode_part(part: Tensor) -> Tensor:
        return vae.encode(part).float()

    with torch.inference_mode():
        if tiling is None:
            moments = encode_part(pixels).cpu()
        else:
            moments = tiled(encode_part, pixels, tiling, 1, LATENT_SCALE).cpu()
        latents, log_variance = moments.chunk(2, dim=1)
        if noise is not None:
            latents = latents + torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCE)) * noise
    if not torch.isfinite(latents).all():
        raise CheckpointError(f"the autoencoder gave NaN or infinite latents; {NOT_FINITE}")
    return (latents - SHIFT_FACTOR) * SCALING_FACTOR


def has_encoder(header: Header) -> bool:
    """Whether the autoencoder of a file can encode; text to image does without."""
    if is_tiny(header):
        return TINY_ENCODER_TENSOR in header.tensors
    return ENCODER_TENSOR in part_of(header, VAE_MARKER).tensors


def load_vae(header: Header, dtype: torch.dtype, device: torch.device | str = "cpu") -> Autoencoder:
    """The autoencoder of a file or a diffusers folder in eval mode, every weight in `dtype`.

    Raises CheckpointError.
    """
    if is_tiny(header):
        return load_tiny(header, dtype, device)
    part = part_of(header, VAE_MARKER)
    shapes = {name: shape for name, (_, shape) in part.tensors.items()}
    bfl = "decoder.mid.attn_1.q.weight" in shapes
    # the decoder's levels, which every file has
    lists, first = "decoder.up_blocks", "decoder.up_blocks.{}.resnets.0.conv1.weight"
    blocks = "decoder.up_blocks.0.resnets"
    if bfl:
        lists, first = "decoder.up", "decoder.up.{}.block.0.conv1.weight"
        blocks = "decoder.up.0.block"
    levels = depth_of(shapes, lists)
    try:
        channels = [shapes[first.format(level)][0] for level in range(levels)]
        latent = shapes[VAE_MARKER[0]][1]
    except KeyError as error:
        raise incomplete(header, error.args[0]) from None
    scaling = SCALING_FACTOR
    if header.format == "diffusers folder":
        scaling = part.metadata.get("scaling_factor", SCALING_FACTOR)
    if latent != LATENT_CHANNELS or scaling != SCALING_FACTOR:
        raise CheckpointError(
            f"{header.path}: is the autoencoder of another model (latents of {latent} channels, "
            f"scaled by {scaling}; Flux has {LATENT_CHANNELS}, scaled by {SCALING_FACTOR}); "
            "use Flux's ae.safetensors"
        )
    if not bfl:
        # BFL numbers them from the finest, diffusers in the order they run
        channels.reverse()
    with torch.device("meta"):
        model = autoencoder.Autoencoder(
            channels,
            latent,
            blocks=depth_of(shapes, blocks) - 1,
            with_encoder=has_encoder(header),
        )
    state: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in read_tensors(header, VAE_MARKER, device, dtype):
        target = vae_name(name, levels) if bfl else name
        if target is None:
            unknown.append(name)
            continue
        if ".attentions." in target and tensor.ndim == 4:
            # BFL writes the attention's projections as 1x1 convolutions
            tensor = tensor.flatten(1)
        state[target] = tensor
    reject_unknown(header, unknown)
    return load_strictly(model, state, header)


def vae_name(name: str, levels: int) -> str | None:
    """diffusers' name of a tensor for BFL's, in an autoencoder of so many levels; None for an
    unknown one.
    """
    layer, _, leaf = name.rpartition(".")
    for pattern, target in VAE_NAMES:
        match = re.fullmatch(pattern, layer)
        if match is None:
            continue
        renamed = match.expand(target)
        level = re.search(r"up_blocks\.([0-9]{1,3})", renamed)
        if level is not None:
            # BFL numbers the decoder's levels from the finest, diffusers in the order they run
            number = levels - 1 - int(level[1])
            renamed = renamed.replace(level[0], f"up_blocks.{number}", 1)
        return f"{renamed}.{leaf}"
    return None
