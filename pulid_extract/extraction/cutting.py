"""The aligned crop of a located face, what is kept of it, and whether a face is left to be seen.

Knows no network: labels are handed in.
"""

from __future__ import annotations

import numpy as np
import torch

from pulid_extract.extraction.locating import LocatedFace
from pulid_extract.faces import crop as face_crop
from pulid_extract.pictures import regions
from pulid_extract.pictures.portrait import Photo
from pulid_extract.shared.errors import FaceError

# of the aligned crop; a real face with its hair covers a third or more
MIN_FACE_SHARE = 0.01


def cut_out(
    photo: Photo, located: LocatedFace, keep: np.ndarray | None
) -> tuple[np.ndarray, torch.Tensor | None]:
    """The aligned crop, uint8 BGR (512, 512, 3), and what is kept of it, bool (1, 1, 512, 512);
    None for all.

    keep: bool (H, W) of the portrait, None for all. Raises FaceError for landmarks that lie on top
    of each other.
    """
    mask = None
    if keep is not None:
        mask = regions.limit_mask(keep, photo.bgr.shape[1::-1])
    kept = None
    if located.points is not None:
        matrix = face_crop.alignment(located.points)
        crop = face_crop.warp(photo.bgr, matrix)
        if mask is not None:
            kept = face_crop.warp(mask, matrix, None)
    else:
        box = photo.in_portrait(located.box)
        crop = regions.crop_box(photo.bgr, box, photo.size, regions.PAD_RGB[::-1])
        if mask is not None:
            kept = regions.crop_box(mask, box, photo.size, None)
    if kept is None:
        return crop, None
    # Beyond the picture's border its rim decides: a mask that keeps all is the same as none.
    return crop, torch.from_numpy(kept[..., 0] >= 128)[None, None]


def check_face_is_seen(labels: torch.Tensor, kept: torch.Tensor | None) -> None:
    """Raise FaceError if too little of the crop is a face, by its labels or by what is kept.

    labels: (1, 1, 512, 512) integers 0..18. kept: bool of that shape, None for all.
    """
    if face_crop.face_share(labels, kept) >= MIN_FACE_SHARE:
        return
    if kept is None or face_crop.face_share(labels) < MIN_FACE_SHARE:
        raise FaceError(
            "the face parser sees no face in the crop, EVA-CLIP would see a white square; "
            "give another portrait, or another region with --face-box"
        )
    raise FaceError(
        "--mask and --box leave nothing of the face, EVA-CLIP would see a white square; "
        "keep more of it"
    )
