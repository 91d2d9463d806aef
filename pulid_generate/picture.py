"""One picture: what is asked for (a job), and what came of it, as a file's bytes. Knows no model."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pulid_extract.embedding_file import Embedding
from pulid_generate.request import GenerationRequest

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Job:
    """One picture: a request with its schedule, its own seed, and an identity or None (then no hook is attached)."""

    request: GenerationRequest
    seed: int
    embedding: Embedding | None = None


@dataclass(frozen=True)
class Picture:
    """pixels: (H, W, 3) uint8 RGB. parameters: the text of the PNG chunk."""

    job: Job
    pixels: np.ndarray = field(repr=False)
    parameters: str

    def png(self, metadata: bool = True) -> bytes:
        """The PNG file. The same picture gives the same bytes."""
        from PIL import Image, PngImagePlugin

        info = PngImagePlugin.PngInfo()
        if metadata:
            info.add_itxt("parameters", self.parameters) if not self.parameters.isascii() else info.add_text(
                "parameters", self.parameters
            )
        buffer = io.BytesIO()
        Image.fromarray(self.pixels).save(buffer, "PNG", pnginfo=info)
        return buffer.getvalue()
