"""What an extraction works with on its way from a portrait to an identity: options, a face crop,
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
from pulid_extract.faces.quality import Quality
from pulid_extract.pictures.regions import FaceBox
from pulid_extract.shared.errors import InputError

Aligner = Literal["retinaface", "antelopev2"]
Parser = Literal["bisenet", "none"]


@dataclass(frozen=True)
class Options:
    """What changes the numbers beside the choice of face; the defaults are the reference's."""

    # whose five landmarks align the crop
    aligner: Aligner = "retinaface"
    # what paints the background white; "none" leaves the whole crop grey
    parser: Parser = "bisenet"
    # score, above 0 and below 1, from which antelopev2 takes something for a face
    det_threshold: float = faces.THRESHOLD

    def __post_init__(self) -> None:
        if not 0 < self.det_threshold < 1:
            raise InputError(
                f"--det-threshold {self.det_threshold:g}: expected a number above 0 and below 1"
            )

    @property
    def retinaface_confidence(self) -> float:
        """RetinaFace, which only supplies landmarks of that same face, follows the threshold below
        antelopev2's own.
        """
        if self.det_threshold < faces.THRESHOLD:
            return self.det_threshold
        return face_crop.CONFIDENCE


@dataclass(frozen=True)
class FaceCrop:
    """The chosen face of one portrait, ready for EVA-CLIP, and how good it is."""

    # uint8 RGB (512, 512, 3), the aligned face
    crop: np.ndarray
    # uint8 (512, 512), BiSeNet's 0..18
    labels: np.ndarray
    # float32 (1, 3, 512, 512) in [0, 1], grey on white
    grey: torch.Tensor
    # (512,) float32, ArcFace's, not normalised
    vector: np.ndarray
    # how it was chosen: `FaceChoice.name`
    face: str
    # where it is, in pixels of the portrait
    box: FaceBox
    # (5, 2) float32 pixels of the portrait; None for a box by hand
    landmarks: np.ndarray | None
    # the detector's, None by hand
    score: float | None
    # how many faces that detector saw, 0 by hand
    faces_found: int
    quality: Quality

    @property
    def grey_face(self) -> np.ndarray:
        """uint8 RGB (512, 512, 3), grey on white: what EVA-CLIP sees, before resizing."""
        return (self.grey[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


@dataclass(frozen=True)
class Features:
    """What IDFormer wants of one portrait."""

    # (1, 512 + P) float32: ArcFace as it is, then the pooled vector, L2-normalised
    condition: torch.Tensor
    # five of (1, L, W), in the arithmetic of the tower
    hidden_states: list[torch.Tensor]

    def zeros(self) -> Features:
        """The same shapes, all zero: the condition of the tokens for a negative prompt."""
        hidden_states = [torch.zeros_like(hidden) for hidden in self.hidden_states]
        return Features(torch.zeros_like(self.condition), hidden_states)


@dataclass(frozen=True)
class Identity:
    """One identity."""

    # (N, C) float32, finite; (32, 2048) with the public PuLID file
    tokens: np.ndarray
    # the same for an all-zero condition, or None
    uncond: np.ndarray | None
    # the portraits it was made from
    crops: tuple[FaceCrop, ...]
