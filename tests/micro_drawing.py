"""Pictures of the micro models through the command line, each drawn once per test module. Import
the fixtures `kept` and `draw`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from make_seeded_checkpoints import write_embedding
from PIL import Image
from safetensors.torch import save_file

from pulid_extract.shared.embedding_file import encode_embedding, read_embedding
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


@pytest.fixture(scope="module")
def kept(micro, tmp_path_factory):
    """me, you: two people, `me` with an unconditional identity."""
    folder = tmp_path_factory.mktemp("drawn")
    tokens = read_embedding(write_embedding(folder / "seeded.pulidembd", 5)).tokens
    (folder / "me.pulidembd").write_bytes(encode_embedding(tokens, tokens[::-1] * 0.5))
    base = (
        *(
            "--diffusion-model",
            micro / "flux1-schnell.safetensors",
            "--vae",
            micro / "ae.safetensors",
        ),
        *("--clip_l", micro / "clip_l.safetensors", "--t5xxl", micro / "t5xxl_fp16.safetensors"),
        *("--t5-tokenizer", micro / "tokenizer.json", "--device", "cpu"),
        *("-p", "a photo of a cat", "-W", WIDTH, "-H", HEIGHT, "--steps", 2),
    )
    pulid = ("--pulid-weights", micro / "pulid_flux_v0.9.1.safetensors")
    return Kept(
        folder,
        base,
        pulid,
        folder / "me.pulidembd",
        write_embedding(folder / "you.pulidembd", 9),
        {},
    )


@pytest.fixture
def draw(generate, kept):
    """draw("--steps", 3, ..) -> Drawn. Flags are added to `kept.base`; people need kept.pulid."""

    def run(*flags, suffix: str = ".png", stdin: bytes = b"") -> Drawn:
        key = (suffix, repr(stdin), *map(str, flags))
        if key not in kept.drawn:
            path = kept.folder / f"{len(kept.drawn)}{suffix}"
            done = generate(*kept.base, *flags, "-o", path, stdin=stdin)
            assert done.code == 0, done.err
            kept.drawn[key] = Drawn(path.read_bytes(), done)
        return kept.drawn[key]

    return run


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
