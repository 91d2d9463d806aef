"""What stage one works with on its way from a portrait to an identity: options, a face crop,
features, the identity. Values only.

Knows nothing of how they are made; see extractor.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from pulid_extract.faces import antelopev2 as faces
from pulid_extract.faces import crop as face_crop
from pulid_extract.faces.antelopev2 import Face
from pulid_extract.faces.quality import Quality
from pulid_extract.pictures.regions import FaceBox
from pulid_extract.shared.errors import InputError

Aligner = Literal["retinaface", "antelopev2"]
Parser = Literal["bisenet", "none"]


@dataclass(frozen=True)
class Options:
    """What changes the numbers beside the choice of face; the defaults are the reference's.

    aligner: whose five landmarks align the crop. parser: what paints the background white; "none"
    leaves the whole crop grey. det_threshold: score, above 0 and below 1, from which antelopev2
    takes something for a face. RetinaFace, which only supplies landmarks of that same face, follows
    it below antelopev2's own threshold.
    """

    aligner: Aligner = "retinaface"
    parser: Parser = "bisenet"
    det_threshold: float = faces.THRESHOLD

    def __post_init__(self) -> None:
        if not 0 < self.det_threshold < 1:
            raise InputError(
                f"--det-threshold {self.det_threshold:g}: expected a number above 0 and below 1"
            )

    @property
    def retinaface_confidence(self) -> float:
        return face_crop.CONFIDENCE if self.det_threshold >= faces.THRESHOLD else self.det_threshold


@dataclass(frozen=True)
class RecognisedFace:
    """One face by its ArcFace vector alone. vector: (512,) float32, not normalised. box: in pixels
    of the portrait. face: as detected, in pixels of the portrait; None for a region by hand.
    """

    vector: np.ndarray
    box: FaceBox
    face: Face | None
    faces_found: int


@dataclass(frozen=True)
class FaceCrop:
    """The chosen face of one portrait, ready for EVA-CLIP, and how good it is.

    crop: uint8 RGB (512, 512, 3), the aligned face. labels: uint8 (512, 512), BiSeNet's 0..18.
    grey: float32 (1, 3, 512, 512) in [0, 1], grey on white. vector: (512,) float32, ArcFace, not
    normalised. face: how it was chosen (`FaceChoice.name`). box, landmarks: where it is, in pixels
    of the portrait; no landmarks for a box by hand. score: the detector's, None by hand.
    faces_found: how many faces that detector saw, 0 by hand.
    """

    crop: np.ndarray
    labels: np.ndarray
    grey: torch.Tensor
    vector: np.ndarray
    face: str
    box: FaceBox
    landmarks: np.ndarray | None
    score: float | None
    faces_found: int
    quality: Quality

    @property
    def grey_face(self) -> np.ndarray:
        """uint8 RGB (512, 512, 3), grey on white: what EVA-CLIP sees, before resizing."""
        return (self.grey[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


@dataclass(frozen=True)
class Features:
    """What IDFormer wants of one portrait. condition: (1, 512 + P): ArcFace as it is, pooled vector
    L2-normalised. hidden_states: five of (1, L, W).
    """

    condition: torch.Tensor
    hidden_states: list[torch.Tensor]

    def zeros(self) -> Features:
        return Features(
            torch.zeros_like(self.condition),
            [torch.zeros_like(hidden) for hidden in self.hidden_states],
        )


@dataclass(frozen=True)
class Identity:
    """One identity. tokens: (N, C) float32, finite; (32, 2048) with the public PuLID file. uncond:
    the same for an all-zero condition, or None. crops: the portraits it was made from.
    """

    tokens: np.ndarray
    uncond: np.ndarray | None
    crops: tuple[FaceCrop, ...]
