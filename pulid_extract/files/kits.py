"""What `pulid-extract pull` fetches: a table. Fetching is model_files.pulling.

Sizes: of the public files as of 2024-2026, for the plan that is shown; the server's own number is
what counts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from pulid_extract.files.roles import ANTELOPEV2, BISENET, EVA_CLIP, RETINAFACE
from pulid_extract.shared.model_files import ANTELOPEV2_NETWORKS, PULID
from pulid_extract.shared.model_files.pulling import KitItem

KITS: dict[str, tuple[KitItem, ...]] = {
    # of the pack's five networks the two that are used
    "antelopev2": tuple(
        KitItem(
            ANTELOPEV2.name,
            replace(ANTELOPEV2.source, files=(file,)),
            size,
            folder="antelopev2",
            role=ANTELOPEV2,
        )
        for file, size in zip(ANTELOPEV2_NETWORKS, (16_923_827, 260_665_334), strict=True)
    ),
    # and not parsing_parsenet.pth, which facexlib loads unasked: nothing here uses it
    "facexlib": (
        KitItem(RETINAFACE.name, RETINAFACE.source, 109_497_761, role=RETINAFACE),
        KitItem(BISENET.name, BISENET.source, 53_289_463, role=BISENET),
    ),
    "eva-clip": (KitItem(EVA_CLIP.name, EVA_CLIP.source, 856_461_210, role=EVA_CLIP),),
    "pulid": (KitItem(PULID.name, PULID.source, 1_142_099_520, role=PULID),),
}
# role -> the part that `pull` fetches it with, where that has another name
PARTS = {
    "retinaface": "facexlib",
    "bisenet": "facexlib",
    "eva_clip": "eva-clip",
    "pulid_weights": "pulid",
}


def pull_command(absent: Collection[str], models_dir: str | Path | None) -> str:
    """The one command that fetches what is not there; without parts where all are missing. absent:
    names of roles.
    """
    parts = list(dict.fromkeys(PARTS.get(name, name) for name in absent))
    if len(parts) == len(KITS):
        parts = []
    return " ".join(["pulid-extract pull", *parts, "--models-dir", str(models_dir or "models")])
