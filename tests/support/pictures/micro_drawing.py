"""Pictures of the micro models through the command line, each drawn once per test module by
the fixtures `kept` and `draw`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from support.programs.commands import Run

from pulid_extract.shared.embedding_file import read_embedding
from pulid_generate import GenerationRequest, ModelFiles, Pipeline, Placement
from pulid_generate.files.model import Model
from pulid_generate.pictures.description import parse_description
from pulid_generate.pictures.picture import read_parameters

WIDTH, HEIGHT = 64, 48


@dataclass(frozen=True)
class Drawn:
    """A picture's file, and what the command said."""

    data: bytes
    run: Run

    @property
    def pixels(self) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.data)).convert("RGB"))

    @property
    def facts(self) -> dict[str, Any]:
        return parse_description(read_parameters(self.data))

    def same_pixels(self, other: Drawn) -> bool:
        return np.array_equal(self.pixels, other.pixels)


@dataclass(frozen=True)
class Kept:
    """The flags of every picture, files that tests share, and the pictures that were drawn."""

    folder: Path
    base: tuple[Any, ...]
    pulid: tuple[Any, ...]
    me: Path
    you: Path
    drawn: dict[tuple[str, ...], Drawn]


def drawn_kept_and_streamed(files: ModelFiles, person: Path) -> tuple[bytes, bytes]:
    """A small picture twice: with the weights where they are used, and with Flux's and T5's
    streamed there, from the CPU to the CPU.
    """
    plain = Placement.choose("cpu", "float32")
    streamed = replace(plain, offload=frozenset({Model.FLUX, Model.T5}))
    request = GenerationRequest("a cat", width=WIDTH, height=HEIGHT, steps=2)
    drawn = []
    for placement in (plain, streamed):
        pipeline = Pipeline(files, placement)
        [picture] = pipeline.draw(pipeline.jobs(request, read_embedding(person)))
        drawn.append(picture.encode("PNG"))
    return drawn[0], drawn[1]


def write_lora(
    path: Path, layer: str = "transformer.single_transformer_blocks.3.proj_mlp", out: int = 512
) -> Path:
    """A LoRA of rank 4 for one layer of the micro Flux."""
    torch.manual_seed(3)
    save_file(
        {
            f"{layer}.lora_A.weight": torch.randn(4, 128) / 4,
            f"{layer}.lora_B.weight": torch.randn(out, 4) / 4,
        },
        path,
    )
    return path
