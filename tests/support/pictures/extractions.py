"""Identities of pictures with coloured faces, each extracted once."""

from __future__ import annotations

import functools
from typing import Any

from support.models.portrait_models import models_folder
from support.pictures.coloured_faces import GREEN, LARGE, RED, face_box, picture

from pulid_extract import FaceBox

# A large face in the corner, a small one in the middle: the reference gives ArcFace the first and
# EVA-CLIP the second.
CORNER, MIDDLE = (2, 2, RED), (9, 10, GREEN)


@functools.cache
def extractor() -> Any:
    """Of the small world's models, loaded once."""
    from pulid_extract.extraction.extractor import Extractor

    return Extractor.load(models_dir=models_folder(), device="cpu")


@functools.cache
def identity(*patches: Any) -> Any:
    """What the extractor makes of a picture with these faces; once."""
    return extractor().extract(picture(*patches))


def crop(*patches: Any) -> Any:
    """Its one crop."""
    (one,) = identity(*patches).crops
    return one


def box_of(patch: Any, half: int = LARGE) -> FaceBox:
    """Where a face of `picture` is, inside it."""
    x1, y1, x2, y2 = face_box(patch[0], patch[1], half)
    return FaceBox(max(x1, 0), max(y1, 0), x2 - max(x1, 0), y2 - max(y1, 0))
