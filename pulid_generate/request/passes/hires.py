"""The second, larger pass over a drawn picture, as values: how large, by what it is enlarged, along
which steps. Knows no pixels. Imports no torch.

Source of the names, the defaults and the meanings: leejet/stable-diffusion.cpp 97d29908
src/stable-diffusion.cpp and examples/common/common.cpp (`--hires` and its family).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulid_generate.errors import RequestError
from pulid_generate.files.layouts import TOKEN_PIXELS
from pulid_generate.request.passes.upscaling import UpscaleSettings, check_tile

# What enlarges the latent: sd-cli's name -> torch's mode, and whether it is antialiased
LATENT_UPSCALERS: dict[str, tuple[str, bool]] = {
    "Latent": ("bilinear", False),
    "Latent (nearest)": ("nearest", False),
    "Latent (nearest-exact)": ("nearest-exact", False),
    "Latent (antialiased)": ("bilinear", True),
    "Latent (bicubic)": ("bicubic", False),
    "Latent (bicubic antialiased)": ("bicubic", True),
}
# What enlarges the decoded picture
PIXEL_UPSCALERS = ("Lanczos", "Nearest")
UPSCALERS = (*LATENT_UPSCALERS, *PIXEL_UPSCALERS)
# of models that enlarge, in the order in which a name is looked for
MODEL_ENDINGS = (".safetensors", ".pth", ".pt", ".ckpt")
# Below it a pass of many steps would run none of them
LEAST_STRENGTH = 0.01
MAX_SCALE = 16


@dataclass(frozen=True, kw_only=True)
class HiresSettings:
    """One second pass. Raises RequestError when built from impossible values."""

    # A name of UPSCALERS, or what `model` is called
    upscaler: str = "Latent"
    # A network that enlarges the decoded picture, None where no such name is given; its SHA-256,
    # once it was read; side of its tiles, in pixels of what goes in
    model: Path | None = None
    model_sha256: str = ""
    tile: int = 128
    # Of the picture's sides; counts where neither of the next two is given
    scale: float = 2.0
    # Pixels, multiples of 16; 0 is the other one's, so that one alone makes a square
    width: int = 0
    height: int = 0
    # 0: as many as the first pass was asked for
    steps: int = 0
    # How much is drawn anew
    denoising_strength: float = 0.7
    # The whole schedule of the pass, in place of steps and strength; ends in 0
    sigmas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.model is None and self.upscaler not in UPSCALERS:
            raise RequestError(
                f"hires-upscaler {self.upscaler}: expected one of {', '.join(UPSCALERS)}, or the "
                "name of a model in the folder of --hires-upscalers-dir"
            )
        check_tile(self.tile, "hires-upscale-tile-size")
        if not 1 <= self.scale <= MAX_SCALE:
            raise RequestError(f"hires-scale {self.scale:g}: expected 1 to {MAX_SCALE}")
        if not LEAST_STRENGTH <= self.denoising_strength <= 1:
            raise RequestError(
                f"hires-denoising-strength {self.denoising_strength:g}: expected "
                f"{LEAST_STRENGTH:g} (hardly anything is redrawn) to 1"
            )
        for name in ("width", "height", "steps"):
            value = getattr(self, name)
            if value < 0:
                raise RequestError(f"hires-{name} {value}: expected 0 (as usual) or more")

    @property
    def in_pixels(self) -> bool:
        """Whether the picture is decoded, enlarged and encoded again."""
        return self.upscaler not in LATENT_UPSCALERS

    def network(self) -> UpscaleSettings:
        """How `model` is run."""
        assert self.model is not None
        return UpscaleSettings(path=self.model, tile=self.tile)

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of the second pass over a picture of that size."""
        if self.width or self.height:
            return self.width or self.height, self.height or self.width
        return _aligned(width * self.scale), _aligned(height * self.scale)

    def facts(self, width: int, height: int) -> dict[str, Any]:
        """For the picture's metadata. width, height: of the first pass."""
        larger = self.size_of(width, height)
        facts: dict[str, Any] = {
            "upscaler": self.upscaler,
            "width": larger[0],
            "height": larger[1],
        }
        if self.model is not None:
            facts |= {"upscaler_sha256": self.model_sha256, "upscaler_tile": self.tile}
        if self.sigmas is None:
            facts["denoising_strength"] = self.denoising_strength
        return facts


def upscaler_named(name: str) -> str:
    """The name as UPSCALERS has it, however it is capitalised; an unknown one as it is."""
    for known in UPSCALERS:
        if known.lower() == name.strip().lower():
            return known
    return name


def find_model(name: str, folder: Path) -> Path:
    """The file of that name, with or without its ending. Raises RequestError."""
    if Path(name).name != name:
        raise RequestError(
            f"hires-upscaler {name}: expected the name of a file in {folder}, not a path"
        )
    for ending in ("", *MODEL_ENDINGS):
        path = folder / f"{name}{ending}"
        if path.is_file():
            return path
    there = ", ".join(models_in(folder)) or "nothing"
    raise RequestError(
        f"hires-upscaler {name}: not found in {folder}, which has {there}; or give one of "
        f"{', '.join(UPSCALERS)}"
    )


def models_in(folder: Path) -> list[str]:
    """The names of the files there that may be models."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.suffix in MODEL_ENDINGS)


def _aligned(side: float) -> int:
    """Up to a multiple of 16."""
    return -(-int(side) // TOKEN_PIXELS) * TOKEN_PIXELS
