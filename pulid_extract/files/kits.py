"""What `pulid-extract pull` fetches: a table. Fetching is model_files.pulling.

Sizes: of the public files as of 2024-2026, for the plan that is shown; the server's own number is
what counts.
"""

from __future__ import annotations

from dataclasses import replace

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
