"""The micro models by name, for every test that draws with them: as flags, and as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pulid_generate.files.model_set import ModelFiles


def encoder_flags(micro: Path) -> tuple[Any, ...]:
    """Autoencoder and text encoders, without T5's tokenizer."""
    return (
        *("--vae", micro / "ae.safetensors"),
        *("--clip_l", micro / "clip_l.safetensors"),
        *("--t5xxl", micro / "t5xxl_fp16.safetensors"),
    )


def model_flags(micro: Path) -> tuple[Any, ...]:
    """Everything that draws without an identity, on the CPU."""
    return (
        *("--diffusion-model", micro / "flux1-schnell.safetensors"),
        *encoder_flags(micro),
        *("--t5-tokenizer", micro / "tokenizer.json"),
        *("--device", "cpu"),
    )


def pulid_flags(micro: Path) -> tuple[Any, ...]:
    """PuLID's weights."""
    return "--pulid-weights", micro / "pulid_flux_v0.9.1.safetensors"


def bare_picture(steps: int) -> tuple[Any, ...]:
    """A small picture whose file holds nothing of how it was drawn, so that equal pixels are equal
    files.
    """
    return (
        *("-p", "a cat", "-W", 64, "-H", 48, "--steps", steps),
        *("--device", "cpu", "--disable-image-metadata"),
    )


def micro_files(micro: Path) -> ModelFiles:
    """All of them, with schnell."""
    return ModelFiles.find(
        models_dir=micro,
        flux=micro / "flux1-schnell.safetensors",
        t5_tokenizer=micro / "tokenizer.json",
    )
