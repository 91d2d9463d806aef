"""Previews of the pictures in work: what their latents would come to, as a small file that is
written again and again. Knows no stage.

Source: leejet/stable-diffusion.cpp 97d29908 examples/cli/main.cpp (the file, the interval).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from pulid_extract.shared.model_files import FoundFile
from pulid_extract.shared.writing import write_atomically
from pulid_generate.errors import PlacementError, RequestError
from pulid_generate.memory.placement import Placement
from pulid_generate.models.autoencoder import Autoencoder, decode
from pulid_generate.models.tiny_autoencoder import load_tiny
from pulid_generate.pictures.picture import encode_pixels, format_of
from pulid_generate.pictures.previews import preview_pixels
from pulid_generate.pipeline.callers import OnDenoised, Reports
from pulid_generate.pipeline.loading import Models

PreviewKind = Literal["proj", "tae", "vae"]


@dataclass(frozen=True)
class PreviewSettings:
    """What is shown, where and how often."""

    kind: PreviewKind
    path: Path
    # steps from one to the next
    interval: int = 1
    # what goes into a step instead of what it would come to
    noisy: bool = False


class Previewer:
    """Writes the first of the pictures in work."""

    def __init__(
        self,
        settings: PreviewSettings,
        tiny: FoundFile | None,
        placement: Placement,
        autoencoder: Callable[[], Autoencoder | None],
    ):
        """tiny: of --tae. autoencoder: gives the one that is loaded beside Flux, None where it
        cannot be.
        """
        self.settings, self.tiny, self.placement = settings, tiny, placement
        self._autoencoder = autoencoder
        self._loaded: Autoencoder | None = None
        self._latest: Tensor | None = None

    @classmethod
    def of(
        cls,
        settings: PreviewSettings | None,
        models: Models,
        autoencoder: Callable[[], Autoencoder | None],
    ) -> Previewer | None:
        """None where nothing is shown."""
        if settings is None:
            return None
        return cls(settings, models.files.tiny, models.placement, autoencoder)

    def keep(self, latents: Tensor) -> None:
        """What would come of the pictures, (B, 16, H/8, W/8)."""
        self._latest = latents[:1]

    def step(self, done: int) -> None:
        """Write what was kept, if it is time to. Raises OutputError, PlacementError."""
        if self._latest is None or done % self.settings.interval:
            return
        path = self.settings.path
        write_atomically(path, encode_pixels(self._pixels(self._latest), format_of(path), None))

    def _pixels(self, latent: Tensor) -> np.ndarray:
        """(h, w, 3) uint8 RGB."""
        if self.settings.kind == "proj":
            return preview_pixels(latent[0].float().cpu().numpy())
        if self._loaded is None:
            self._loaded = self._load()
        return decode(self._loaded, latent)

    def _load(self) -> Autoencoder:
        if self.settings.kind == "tae":
            if self.tiny is None:
                raise RequestError("preview tae: needs a tiny autoencoder; give --tae taef1")
            return load_tiny(self.tiny.header, self.placement.dtype, self.placement.device)
        vae = self._autoencoder()
        if vae is None:
            raise PlacementError(
                "preview vae: the autoencoder does not fit beside Flux; use --preview proj, or tae"
            )
        return vae


def watched(
    label: str, reports: Reports, previewer: Previewer | None
) -> tuple[Callable[[int, int], None], OnDenoised | None, bool]:
    """What the denoise loop calls at each step and at each evaluation, previews included, and
    whether evaluations tell of what went into them.
    """
    told = partial(reports.on_step, label)
    if previewer is None:
        return told, reports.on_denoised, False

    def step(done: int, total: int) -> None:
        previewer.step(done)
        told(done, total)

    def keep(latents: Tensor) -> None:
        previewer.keep(latents)
        if reports.on_denoised is not None:
            reports.on_denoised(latents)

    return step, keep, previewer.settings.noisy
