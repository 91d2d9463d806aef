"""What a person may look at after an extraction: the grey face, the crop, and a sheet of how the
identity came about. Knows no network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pulid_extract.flags.extract import ExtractFlags
from pulid_extract.pictures.drawing import Mark, encode_png
from pulid_extract.pictures.portrait import Photo
from pulid_extract.pictures.preview import PreviewRow, preview_sheet
from pulid_extract.pictures.sources import Source

if TYPE_CHECKING:
    from pulid_extract.extraction.identity import FaceCrop


def picture_paths(flags: ExtractFlags) -> dict[str, str]:
    """flag -> path, of the pictures that are to be written."""
    named = {
        "--face-image": flags.face_image,
        "--crop-image": flags.crop_image,
        "--preview": flags.preview,
    }
    return {flag: path for flag, path in named.items() if path is not None}


class ExtractionPictures:
    """Collects what the pictures are made of while portraits are cut out."""

    def __init__(self, flags: ExtractFlags):
        self.flags = flags
        self.paths = picture_paths(flags)
        self.crops: list[FaceCrop] = []
        self.rows: list[PreviewRow] = []

    def add(self, source: Source, image: np.ndarray, crop: FaceCrop) -> None:
        """One portrait, uint8 RGB (H, W, 3), and its face."""
        self.crops.append(crop)
        if self.flags.preview is not None:
            self.rows.append(_preview_row(source, image, crop, self.flags.parser != "none"))

    def encoded(self) -> dict[str, bytes]:
        """path -> PNG."""
        pictures = {}
        for flag, path in self.paths.items():
            pictures[path] = encode_png(self._picture(flag))
        return pictures

    def _picture(self, flag: str) -> np.ndarray:
        """uint8 RGB (H, W, 3)."""
        if flag == "--face-image":
            return self.crops[0].grey_face
        if flag == "--crop-image":
            return self.crops[0].crop
        return preview_sheet(self.rows)


def _preview_row(source: Source, image: np.ndarray, crop: FaceCrop, is_parsed: bool) -> PreviewRow:
    photo, box = Photo.of(image), crop.box
    (sx, sy) = photo.scale
    right, bottom = box.x + box.width, box.y + box.height
    mark = Mark(
        (box.x / sx, box.y / sy, right / sx, bottom / sy),
        None if crop.landmarks is None else crop.landmarks / photo.scale,
        crop.face,
        chosen=True,
    )
    lines = [source.where, crop.quality.line()]
    lines += [warning.advice for warning in crop.quality.warnings]
    return PreviewRow(
        caption="\n".join(lines),
        photo=photo.rgb,
        mark=mark,
        crop=crop.crop,
        labels=crop.labels if is_parsed else None,
        grey_face=crop.grey_face,
    )
