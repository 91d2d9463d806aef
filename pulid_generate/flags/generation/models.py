"""Which files: the models of one generation. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from pulid_extract.shared.model_files import MODELS_DIR_VARIABLE


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """Files by role, or where to look for them."""

    HEADING = "Model files"

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="FILE|FOLDER|REPO",
            help="Everything in one: a ComfyUI all-in-one checkpoint, a diffusers folder, or a "
            "repository id in the Hugging Face cache. The flags below take precedence.",
        ),
    ] = None
    diffusion_model: Annotated[
        str | None,
        typer.Option(
            "--diffusion-model",
            metavar="FILE|FOLDER|REPO",
            help="Flux.1 dev, schnell, Krea-dev or Kontext-dev: safetensors (also fp8), GGUF, a "
            "diffusers folder or repository id.",
        ),
    ] = None
    vae: Annotated[
        str | None, typer.Option("--vae", metavar="FILE|FOLDER", help="ae.safetensors.")
    ] = None
    tae: Annotated[
        str | None,
        typer.Option(
            "--tae",
            "--taesd",
            metavar="FILE|FOLDER",
            help="taef1, a tiny autoencoder: encodes and decodes in place of --vae, faster, in "
            "less memory and coarser.",
        ),
    ] = None
    taesd_preview_only: Annotated[
        bool,
        typer.Option(
            "--taesd-preview-only", help="Take --tae for --preview tae only, --vae for the picture."
        ),
    ] = False
    clip_l: Annotated[
        str | None, typer.Option("--clip_l", metavar="FILE|FOLDER", help="clip_l.safetensors.")
    ] = None
    t5xxl: Annotated[
        str | None,
        typer.Option(
            "--t5xxl",
            metavar="FILE|FOLDER",
            help="t5xxl_fp16.safetensors, an fp8 one, or a T5 encoder in GGUF.",
        ),
    ] = None
    t5_tokenizer: Annotated[
        str | None,
        typer.Option(
            "--t5-tokenizer",
            metavar="PATH",
            help="Folder, tokenizer.json or spiece.model. Default: beside the T5 file, else the "
            "models folder, the Hugging Face cache, the hub.",
        ),
    ] = None
    pulid_weights: Annotated[
        str | None,
        typer.Option("--pulid-weights", metavar="FILE", help="pulid_flux_v0.9.1.safetensors."),
    ] = None
    models_dir: Annotated[
        str | None,
        typer.Option(
            "--models-dir",
            metavar="FOLDER",
            envvar=MODELS_DIR_VARIABLE,
            help="Folder of model files, told apart by what is in them; flags for single files "
            "come first, the Hugging Face cache last.",
        ),
    ] = None
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            metavar="FILE[:W]",
            help="A LoRA and its weight (1); may be given several times.",
        ),
    ] = None
    lora_model_dir: Annotated[
        str | None,
        typer.Option(
            "--lora-model-dir",
            metavar="FOLDER",
            help="Where the prompt's <lora:NAME:WEIGHT> are looked for.",
        ),
    ] = None
