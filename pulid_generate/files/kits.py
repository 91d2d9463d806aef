"""What `pulid-generate pull KIT` fetches: a table. Fetching is
pulid_extract.shared.model_files.pulling.

Sizes: of the public files as of 2024-2026, for the plan that is shown; the server's own number is
what counts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pulid_extract.shared.model_files import Role, Source
from pulid_extract.shared.model_files.pulling import KitItem
from pulid_generate.files.roles import CLIP_L, FLUX, PULID, T5XXL, VAE
from pulid_generate.files.t5_vocabulary import T5_TOKENIZER

Kit = Literal["schnell-q4", "schnell", "dev-q8", "dev", "krea-dev", "encoders", "pulid"]

APACHE = "Apache-2.0"
NONCOMMERCIAL = "FLUX.1 [dev] Non-Commercial License: no commercial use of the model"


def _flux(repo: str, file: str, size: int, licence: str, gated: bool = False) -> KitItem:
    """size: bytes."""
    source = Source(repo=repo, files=(file,), licence=licence)
    return KitItem(FLUX.name, source, size, role=FLUX, gated=gated, own=True)


# byte for byte the ae.safetensors of FLUX.1-schnell and -dev, which are behind gates; the hash says
# so
AUTOENCODER = KitItem(
    VAE.name,
    Source(
        repo="Comfy-Org/Lumina_Image_2.0_Repackaged",
        files=("split_files/vae/ae.safetensors",),
        sha256="afc8e28272cd15db3919bacdb6918ce9c1ed22e96cb12c4d5ed0fba823529e38",
        licence=APACHE,
    ),
    335_304_388,
    role=VAE,
)
CLIP = KitItem(
    CLIP_L.name,
    replace(
        CLIP_L.source, sha256="660c6f5b1abae9dc498ac2d21e1347d2abdb0cf6c0c0c8576cd796491d9a6cdd"
    ),
    246_144_152,
    role=CLIP_L,
)
T5_FP16 = KitItem(
    T5XXL.name,
    replace(
        T5XXL.source, sha256="6e480b09fae049a72d2a8c5fbccb8d3e92febeb233bbe9dfe7256958a9167635"
    ),
    9_787_841_024,
    role=T5XXL,
)
T5_FP8 = KitItem(
    T5XXL.name,
    replace(
        T5XXL.source,
        files=("t5xxl_fp8_e4m3fn.safetensors",),
        sha256="7d330da4816157540d6bb7838bf63a0f02f573fc48ca4d8de34bb0cbfd514f09",
    ),
    4_893_934_904,
    role=T5XXL,
)
T5_VOCABULARY = KitItem(
    T5_TOKENIZER.name, T5_TOKENIZER.source, 791_656, or_else=("tokenizer.json",)
)
IDENTITY = KitItem(PULID.name, PULID.source, 1_142_099_520, role=PULID)

TEXT, TEXT_SMALL = (CLIP, T5_FP16, T5_VOCABULARY), (CLIP, T5_FP8, T5_VOCABULARY)

# Each holds everything that a generation needs; "encoders" all but Flux, for whoever has that;
# "pulid" the one file.
KITS: dict[str, tuple[KitItem, ...]] = {
    "schnell-q4": (
        _flux("city96/FLUX.1-schnell-gguf", "flux1-schnell-Q4_K_S.gguf", 6_780_000_000, APACHE),
        AUTOENCODER,
        *TEXT_SMALL,
        IDENTITY,
    ),
    "schnell": (
        _flux(
            "black-forest-labs/FLUX.1-schnell",
            "flux1-schnell.safetensors",
            23_780_000_000,
            APACHE,
            gated=True,
        ),
        AUTOENCODER,
        *TEXT,
        IDENTITY,
    ),
    "dev-q8": (
        _flux("city96/FLUX.1-dev-gguf", "flux1-dev-Q8_0.gguf", 12_700_000_000, NONCOMMERCIAL),
        AUTOENCODER,
        *TEXT,
        IDENTITY,
    ),
    "dev": (
        _flux(
            "black-forest-labs/FLUX.1-dev",
            "flux1-dev.safetensors",
            23_802_932_552,
            NONCOMMERCIAL,
            gated=True,
        ),
        AUTOENCODER,
        *TEXT,
        IDENTITY,
    ),
    "krea-dev": (
        _flux(
            "black-forest-labs/FLUX.1-Krea-dev",
            "flux1-krea-dev.safetensors",
            23_802_932_552,
            NONCOMMERCIAL,
            gated=True,
        ),
        AUTOENCODER,
        *TEXT,
        IDENTITY,
    ),
    "encoders": (AUTOENCODER, *TEXT_SMALL, IDENTITY),
    "pulid": (IDENTITY,),
}

# kits that bring what is missing
SMALLEST_KIT, ENCODERS_KIT, PULID_KIT = "schnell-q4", "encoders", "pulid"


def pull_command(absent: Collection[Role], models_dir: str | Path | None) -> str:
    """The one command that fetches what is not there; it leaves alone what is."""
    kit = ENCODERS_KIT
    if FLUX in absent:
        # without Flux the smallest one is the way to begin
        kit = SMALLEST_KIT
    elif set(absent) == {PULID}:
        kit = PULID_KIT
    return f"pulid-generate pull {kit} --models-dir {models_dir or 'models'}"
