"""The parts of this stage that come from files: a table, nothing else. Finding and checking them is
model_files, which also holds the one role that both stages have (PuLID).

Sizes and licences: facts of the public files as of 2024-2026. Every source is public and ungated.
"""

from __future__ import annotations

from pulid_extract.shared.model_files import (
    ANTELOPEV2_NETWORKS,
    OTHER_PACK,
    PULID,
    Role,
    Source,
)

FACEXLIB = "https://github.com/xinntao/facexlib/releases/download/"

ANTELOPEV2 = Role(
    name="face detector and ArcFace network (antelopev2)",
    flag="--antelopev2",
    kinds=("antelopev2 folder",),
    source=Source(
        repo="DIAMONIK7777/antelopev2",  # the copy the reference app downloads
        files=ANTELOPEV2_NETWORKS,
        licence="InsightFace's models: non-commercial research only",
    ),
    fetch=True,
    by_flag={
        OTHER_PACK: "PuLID was trained on the vectors of antelopev2's glintr100.onnx, those of "
        "another recogniser draw a stranger's likeness"
    },
)
RETINAFACE = Role(
    name="RetinaFace detector",
    flag="--retinaface",
    kinds=("RetinaFace detector",),
    source=Source(
        url=FACEXLIB + "v0.1.0/detection_Resnet50_Final.pth",
        sha256="6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
        licence="MIT",
    ),
    fetch=True,
)
BISENET = Role(
    name="BiSeNet face parser",
    flag="--bisenet",
    kinds=("BiSeNet parser",),
    source=Source(url=FACEXLIB + "v0.2.0/parsing_bisenet.pth", licence="MIT"),
    fetch=True,
)
EVA_CLIP = Role(
    name="EVA02-CLIP-L-14-336 image tower",
    flag="--eva-clip",
    kinds=("EVA-CLIP tower",),
    source=Source(repo="QuanSun/EVA-CLIP", files=("EVA02_CLIP_L_336_psz14_s6B.pt",), licence="MIT"),
    fetch=True,
)

ROLES = {
    "antelopev2": ANTELOPEV2,
    "retinaface": RETINAFACE,
    "bisenet": BISENET,
    "eva_clip": EVA_CLIP,
    "pulid_weights": PULID,
}
