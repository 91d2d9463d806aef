"""The tiny autoencoder from its file, in the place of Flux's own: the same calls, the same scale of
latents, a fraction of the time and the memory, and coarser pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pulid_extract.shared.model_files import Header
from pulid_generate.errors import CheckpointError
from pulid_generate.files.layouts import LATENT_CHANNELS, SCALING_FACTOR, SHIFT_FACTOR, TINY_MARKER
from pulid_generate.models.tensor_files import load_strictly, read_tensors
from pulid_generate.networks.tiny_autoencoder import TinyAutoencoder

# one that every file with an encoder has
TINY_ENCODER_TENSOR = "encoder.layers.0.weight"
# of a latent that is what it is: the logarithm of no variance
CERTAIN = -30.0


class TinyCodec:
    """`TinyAutoencoder` with the calls of `networks.autoencoder.Autoencoder`."""

    def __init__(self, network: TinyAutoencoder):
        self.network = network

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    def encode(self, pixels: Tensor) -> Tensor:
        """Mean and log variance (B, 32, h, w) of pixels (B, 3, 8h, 8w) in -1..1."""
        latents = self.network.encode((pixels + 1) / 2)
        mean = latents / SCALING_FACTOR + SHIFT_FACTOR
        return torch.cat([mean, torch.full_like(mean, CERTAIN)], dim=1)

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, 8h, 8w), about -1..1, of latents (B, 16, h, w) as the autoencoder has
        them.
        """
        return self.network.decode((latents - SHIFT_FACTOR) * SCALING_FACTOR) * 2 - 1


def is_tiny(header: Header) -> bool:
    """Whether a file is a tiny autoencoder, or its decoder alone."""
    return not header.names.isdisjoint(TINY_MARKER)


def load_tiny(header: Header, dtype: torch.dtype, device: torch.device | str = "cpu") -> TinyCodec:
    """The tiny autoencoder of a file with diffusers' names, or its decoder with the names of the
    file that holds it alone; every weight in `dtype`. Raises CheckpointError.
    """
    alone = TINY_MARKER[0] not in header.tensors
    shape = header.tensors[TINY_MARKER[1] if alone else TINY_MARKER[0]][1]
    if len(shape) != 4 or shape[1] != LATENT_CHANNELS:
        raise CheckpointError(
            f"{header.path}: is the tiny autoencoder of another model (its first layer is "
            f"{'x'.join(map(str, shape))}; Flux's latents have {LATENT_CHANNELS} channels); "
            "use taef1"
        )
    with torch.device("meta"):
        encodes = TINY_ENCODER_TENSOR in header.tensors
        network = TinyAutoencoder(shape[0], LATENT_CHANNELS, encodes)
    state = {}
    for name, tensor in read_tensors(header, TINY_MARKER, device, dtype):
        state[_of_decoder(name) if alone else name] = tensor
    return TinyCodec(load_strictly(network, state, header))


def _of_decoder(name: str) -> str:
    """diffusers' name for one of the decoder's own file, whose first layer squeezes latents
    together and has no weights there.

    Source: madebyollin/taesd taesd.py (`Decoder`); diffusers 0.42.1 vae.py (`DecoderTiny`).
    """
    number, _, rest = name.partition(".")
    return f"decoder.layers.{int(number) - 1}.{rest}" if number.isdigit() else name
