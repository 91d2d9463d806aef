"""Crops of a picture with three faces, each made once."""

from __future__ import annotations

import functools

from support.models.portrait_models import models_folder
from support.pictures.coloured_faces import A, B, C, picture

from pulid_extract.faces.choice import FaceChoice

# In a picture of the small world: a large face top left, small ones right and bottom.
LARGEST = FaceChoice()


@functools.cache
def extractor(**options):
    from pulid_extract.extraction.extractor import Extractor

    return Extractor.load(models_dir=models_folder(), device="cpu", **options)


@functools.cache
def crop(choice=LARGEST, patches=(A, B, C)):
    return extractor().crop(picture(*patches), choice)
