"""One file on the fake hub, as an item of a kit, and what has arrived of it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from pulid_extract.shared.model_files import PULID, Source
from pulid_extract.shared.model_files.pulling import KitItem

REPO, FILE = "someone/pulid", "pulid.safetensors"
BODY = save(
    {
        "pulid_ca.0.norm1.weight": np.arange(100_000, dtype=np.float32),
        "pulid_encoder.latents": np.ones(2, np.float32),
    }
)
SHA256 = hashlib.sha256(BODY).hexdigest()


def item(**changes) -> KitItem:
    source = Source(repo=REPO, files=(FILE,), licence="Apache-2.0")
    return replace(KitItem("PuLID weights", source, len(BODY), role=PULID), **changes)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())
