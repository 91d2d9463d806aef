"""Networks that enlarge a finished picture: ESRGAN's files, and what else spandrel knows by its
tensors. Knows no request and no stage.

spandrel (the extra [upscale]) is imported only where such a file is read.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pulid_extract.shared.errors import require_packages
from pulid_generate.errors import CheckpointError, InputError
from pulid_generate.models.tiles import tiled
from pulid_generate.request.passes.upscaling import OVERLAP, UpscaleSettings
from pulid_generate.request.tiling import Tiling

# What the extra brings
PACKAGES = ("spandrel", "torchvision")
PICKLES = (".pth", ".pt", ".ckpt")
# Bytes at the peak for a pixel of the tile that comes out: four maps of 64 channels in float32
BYTES_PER_PIXEL = 4 * 64 * 4
# What such a network does; others of spandrel's want a mask, or a face cut out
PURPOSES = ("SR", "Restoration")


class Upscaler:
    """A loaded network, in float32 whatever the others compute in: 16 bits show as bands."""

    def __init__(self, network: Any, settings: UpscaleSettings, sha256: str):
        """network: a spandrel ImageModelDescriptor of three channels."""
        self.network, self.settings, self.sha256 = network, settings, sha256

    @property
    def scale(self) -> int:
        """By how much the sides grow each time."""
        return int(self.network.scale)

    @property
    def bytes(self) -> int:
        """On the device while it runs, a tile included."""
        weights = 0
        for weight in self.network.model.parameters():
            weights += weight.numel() * 4
        return weights + BYTES_PER_PIXEL * (self.settings.tile * self.scale) ** 2

    def facts(self) -> dict[str, Any]:
        """For a picture's metadata."""
        return {
            "model": self.settings.path.name,
            "sha256": self.sha256,
            "scale": self.scale,
            "repeats": self.settings.repeats,
            "tile": self.settings.tile,
        }

    def enlarged(self, pixels: np.ndarray, device: torch.device) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> the same, larger. Raises CheckpointError if it is not finite."""
        self.network.to(device)
        with torch.inference_mode():
            picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
            for _ in range(self.settings.repeats):
                picture = self._once(picture, device).clamp(0, 1)
        if not torch.isfinite(picture).all():
            raise CheckpointError(
                f"{self.settings.path}: gave NaN or infinite pixels; a damaged file"
            )
        return (picture[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()

    def _once(self, picture: Tensor, device: torch.device) -> Tensor:
        """picture: (1, 3, H, W) float32 from 0 to 1, on the CPU, where the whole stays."""

        def apply(tile: Tensor) -> Tensor:
            larger: Tensor = self.network(tile.to(device))
            return larger.float().cpu()

        tiles = Tiling(self.settings.tile, self.settings.tile, OVERLAP)
        return tiled(apply, picture, tiles, self.scale, 1)


def load_upscaler(settings: UpscaleSettings) -> Upscaler:
    """The network of a file, on the CPU. Raises PackageError without spandrel, InputError for a
    file that cannot be read, CheckpointError for one that holds no such network.
    """
    require_packages(PACKAGES, "upscale")
    path = settings.path
    state = _state_of(path)
    import spandrel

    wanted = "expected a network that enlarges pictures, such as ESRGAN's 4x_foolhardy_Remacri.pth"
    try:
        network = spandrel.ModelLoader("cpu").load_from_state_dict(
            spandrel.canonicalize_state_dict(state)
        )
    # which of its readers stumbles, and how, depends on the file
    except Exception:
        raise CheckpointError(
            f"{path}: is no upscaler that spandrel {spandrel.__version__} knows; {wanted}"
        ) from None
    channels = network.input_channels, network.output_channels
    if network.purpose not in PURPOSES or channels != (3, 3):
        raise CheckpointError(
            f"{path}: is {network.architecture.name}, for {network.purpose} from {channels[0]} to "
            f"{channels[1]} channels; {wanted}"
        )
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Upscaler(network.float().eval(), settings, sha256)


def _state_of(path: Path) -> dict[str, Any]:
    """The tensors of a file by their names. Nothing else of a pickle is ever made."""
    from safetensors.torch import load_file

    if path.suffix.lower() not in (*PICKLES, ".safetensors"):
        raise InputError(
            f"{path}: expected a .safetensors or .pth file; give an upscaler's in one of them"
        )
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    # the unpickler and the parser raise whatever a damaged byte leads to
    except Exception:
        raise CheckpointError(
            f"{path}: holds no tensors alone: a damaged file, or a pickle with code in it, which "
            "is not run; download it again, as .safetensors if there is one"
        ) from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds no tensors by name; give an upscaler's file")
    return state
