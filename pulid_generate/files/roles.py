"""The parts of this stage and the files that can fill them: a table.
`pulid_extract.shared.model_files.find` looks them up.

Sizes and licences: the model cards of the repositories named here.
"""

from __future__ import annotations

from dataclasses import replace

from pulid_extract.shared import model_files
from pulid_extract.shared.model_files import Role, Source

FLUX = Role(
    "Flux transformer",
    "--diffusion-model",
    ("Flux transformer", "diffusers Flux transformer"),
    Source(
        repo="black-forest-labs/FLUX.1-schnell",
        files=("flux1-schnell.safetensors",),
        licence="Apache-2.0 (FLUX.1-dev: non-commercial)",
    ),
    mistaken=(
        "Flux Fill transformer",
        "Flux Canny or Depth transformer",
        "Flux Redux adapter",
        "FLUX.2 checkpoint",
        "Chroma checkpoint",
        "Stable Diffusion 3 checkpoint",
        "Stable Diffusion checkpoint (SDXL or older)",
    ),
)
VAE = Role(
    "autoencoder",
    "--vae",
    ("Flux autoencoder", "diffusers Flux autoencoder"),
    Source(
        repo="black-forest-labs/FLUX.1-schnell", files=("ae.safetensors",), licence="Apache-2.0"
    ),
    mistaken=("FLUX.2 autoencoder", "Stable Diffusion autoencoder"),
)
TINY = Role(
    "tiny autoencoder",
    "--tae",
    ("Flux tiny autoencoder",),
    Source(
        repo="madebyollin/taef1",
        files=("diffusion_pytorch_model.safetensors",),
        licence="MIT",
    ),
)
CLIP_L = Role(
    "CLIP-L text encoder",
    "--clip_l",
    ("CLIP-L text encoder",),
    Source(repo="comfyanonymous/flux_text_encoders", files=("clip_l.safetensors",), licence="MIT"),
    mistaken=("CLIP-G text encoder", "CLIP-H text encoder"),
)
T5XXL = Role(
    "T5 text encoder",
    "--t5xxl",
    ("T5 encoder", "T5 encoder in GGUF"),
    Source(
        repo="comfyanonymous/flux_text_encoders",
        files=("t5xxl_fp16.safetensors",),
        licence="Apache-2.0",
    ),
    mistaken=("UMT5 text encoder", "mT5 text encoder"),
)

# several of the above in one file, or a whole diffusers pipeline
ALL_IN_ONE = Role(
    "all-in-one checkpoint",
    "--model",
    FLUX.kinds + VAE.kinds + CLIP_L.kinds + T5XXL.kinds,
    Source(
        repo="Comfy-Org/flux1-schnell",
        files=("flux1-schnell-fp8.safetensors",),
        licence="Apache-2.0",
    ),
)

# this stage downloads no model that was not asked for
PULID = replace(model_files.PULID, fetch=False)
