"""A face cut out as facexlib does it: landmarks by RetinaFace, alignment to 512x512, face parsing
by BiSeNet, grey face on white. Knows nothing of insightface or of EVA-CLIP.

Sources: ToTheBeginning/PuLID 1aa2fc7, pulid/pipeline_flux.py; facexlib 0.3.0,
utils/face_restoration_helper.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pulid_extract.networks.bisenet import BiSeNet
from pulid_extract.networks.retinaface import RetinaFace
from pulid_extract.shared.errors import FaceError, WeightsError

CROP_SIDE = 512
CONFIDENCE = 0.97
BORDER_BGR = (135, 133, 132)
# Eyes, nose tip, mouth corners of an FFHQ face at 512x512.
TEMPLATE = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Background, cloth, hat, left and right ear, ear ring, neck, necklace (CelebAMask-HQ order): all
# that is neither face nor hair.
BACKGROUND_LABELS = (0, 16, 18, 7, 8, 9, 14, 15)
GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Landmarks:
    """One face as RetinaFace sees it, in pixels of the picture."""

    # (x1, y1, x2, y2)
    box: tuple[float, float, float, float]
    # (5, 2): eyes, nose tip, mouth corners
    points: np.ndarray
    # 0 to 1
    score: float

    def mapped(
        self, scale: tuple[float, float], shift: tuple[float, float] = (0.0, 0.0)
    ) -> Landmarks:
        """The same face where x becomes x * scale + shift, and y alike."""
        (sx, sy), (dx, dy) = scale, shift
        left, top, right, bottom = self.box
        box = (left * sx + dx, top * sy + dy, right * sx + dx, bottom * sy + dy)
        return Landmarks(box, self.points * scale + shift, self.score)


@torch.no_grad()
def find_landmarks(
    detector: RetinaFace, image: np.ndarray, confidence: float = CONFIDENCE
) -> list[Landmarks]:
    """All faces in a uint8 BGR (H, W, 3) picture, at its own size, best score first."""
    # (faces, 15): box, score, five points
    rows = detector.detect_faces(image, confidence)
    if not np.isfinite(rows).all():
        raise WeightsError(
            "RetinaFace gives boxes that are NaN or infinite; download "
            "detection_Resnet50_Final.pth again"
        )
    marks = []
    for row in rows:
        left, top, right, bottom, score = (float(value) for value in row[:5])
        marks.append(Landmarks((left, top, right, bottom), row[5:15].reshape(5, 2), score))
    return marks


def align(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Turn, scale and shift the picture so that the landmarks meet the template: uint8 BGR (512,
    512, 3).

    image: uint8 BGR (H, W, 3). points: (5, 2) pixels. Raises FaceError if the landmarks lie on top
    of each other.
    """
    return warp(image, alignment(points))


def alignment(points: np.ndarray) -> np.ndarray:
    """The (2, 3) matrix that takes pixels of a picture to pixels of the aligned crop. points: (5,
    2). Raises FaceError as `align`.
    """
    import cv2

    matrix = cv2.estimateAffinePartial2D(points, TEMPLATE, method=cv2.LMEDS)[0]
    if matrix is None or not np.isfinite(matrix).all():
        raise FaceError(
            "the face's landmarks lie on top of each other; give another portrait, or the region "
            "with --face-box"
        )
    return matrix


def warp(
    image: np.ndarray, matrix: np.ndarray, border: tuple[int, int, int] | None = BORDER_BGR
) -> np.ndarray:
    """uint8 (H, W, 3) as the aligned crop sees it: (512, 512, 3). border: the colour where there is
    no picture; None repeats its rim.
    """
    import cv2

    size = (CROP_SIDE, CROP_SIDE)
    if border is None:
        return cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    return cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_CONSTANT, borderValue=border)


def to_tensor(crop: np.ndarray) -> torch.Tensor:
    """uint8 BGR (H, W, 3) -> float32 RGB (1, 3, H, W) in [0, 1]."""
    channels_first = np.ascontiguousarray(crop[..., ::-1].transpose(2, 0, 1))
    return torch.from_numpy(channels_first).float()[None] / 255.0


@torch.no_grad()
def parse_face(parser: BiSeNet, face: torch.Tensor) -> torch.Tensor:
    """The label (0..18) of every pixel: (B, 1, H, W) int64. face: float32 RGB (B, 3, H, W) in [0,
    1].
    """
    mean, std = face.new_tensor(IMAGENET_MEAN), face.new_tensor(IMAGENET_STD)
    scores = parser((face - mean[:, None, None]) / std[:, None, None])
    if not torch.isfinite(scores).all():
        raise WeightsError(
            "BiSeNet gives scores that are NaN or infinite; download parsing_bisenet.pth again"
        )
    return scores.argmax(dim=1, keepdim=True)


def face_share(labels: torch.Tensor, keep: torch.Tensor | None = None) -> float:
    """The share of a crop, 0 to 1, that is face or hair by its labels (B, 1, H, W) and is kept; see
    `grey_on_white`.
    """
    return 1.0 - float(_hidden(labels, keep).float().mean())


def grey_on_white(
    face: torch.Tensor, labels: torch.Tensor, keep: torch.Tensor | None = None
) -> torch.Tensor:
    """The face in grey on three equal channels, white wherever the labels say background: (B, 3, H,
    W) in [0, 1].

    face: float32 RGB (B, 3, H, W) in [0, 1]. labels: (B, 1, H, W) integers 0..18. keep: (B, 1, H,
    W) bool, white also where it is False; None keeps all, as the reference.
    """
    red, green, blue = face[:, 0:1], face[:, 1:2], face[:, 2:3]
    grey = GREY[0] * red + GREY[1] * green + GREY[2] * blue
    return torch.where(_hidden(labels, keep), 1.0, grey).repeat(1, 3, 1, 1)


def _hidden(labels: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    background = torch.isin(labels, torch.tensor(BACKGROUND_LABELS, device=labels.device))
    return background if keep is None else background | ~keep
