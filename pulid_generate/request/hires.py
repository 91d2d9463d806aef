"""The second, larger pass over a drawn picture, as values: how large, by what it is enlarged, along
which steps. Knows no pixels. Imports no torch.

Source of the names, the defaults and the meanings: leejet/stable-diffusion.cpp 97d29908
src/stable-diffusion.cpp and examples/common/common.cpp (`--hires` and its family).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pulid_generate.errors import RequestError
from pulid_generate.files.layouts import TOKEN_PIXELS

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
# Below it a pass of many steps would run none of them
LEAST_STRENGTH = 0.01
MAX_SCALE = 16


@dataclass(frozen=True, kw_only=True)
class HiresSettings:
    """One second pass. Raises RequestError when built from impossible values."""

    # A name of UPSCALERS
    upscaler: str = "Latent"
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
        if self.upscaler not in UPSCALERS:
            raise RequestError(
                f"hires-upscaler {self.upscaler}: expected one of {', '.join(UPSCALERS)}; models "
                "that enlarge are not read in this pass"
            )
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
        return self.upscaler in PIXEL_UPSCALERS

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
        if self.sigmas is None:
            facts["denoising_strength"] = self.denoising_strength
        return facts


def upscaler_named(name: str) -> str:
    """The name as UPSCALERS has it, however it is capitalised; an unknown one as it is."""
    for known in UPSCALERS:
        if known.lower() == name.strip().lower():
            return known
    return name


def _aligned(side: float) -> int:
    """Up to a multiple of 16."""
    return -(-int(side) // TOKEN_PIXELS) * TOKEN_PIXELS
