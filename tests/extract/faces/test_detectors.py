"""The small world is what it says: each detector sees the colours that it should."""

from __future__ import annotations

import numpy as np
import pytest
from support.models.portrait_models import loaded_retinaface, models_folder
from support.pictures.coloured_faces import (
    GREEN,
    LARGE,
    MAGENTA,
    POINTS,
    RED,
    SMALL,
    YELLOW,
    face_box,
    picture,
)


@pytest.mark.parametrize(
    ("colour", "half", "insightface", "retinaface"),
    [(RED, LARGE, 1, 1), (GREEN, SMALL, 1, 1), (YELLOW, LARGE, 1, 0), (MAGENTA, LARGE, 0, 1)],
    ids=["red", "green", "yellow", "magenta"],
)
def test_detectors_see_the_colours_they_should(colour, half, insightface, retinaface):
    from pulid_extract.faces.antelopev2 import Antelope
    from pulid_extract.faces.crop import find_landmarks

    bgr = np.ascontiguousarray(picture((5, 7, colour))[..., ::-1])
    found = Antelope(models_folder() / "antelopev2").detect(bgr)
    marks = find_landmarks(loaded_retinaface(), bgr)
    assert (len(found), len(marks)) == (insightface, retinaface)
    want = face_box(5, 7, half)
    for seen in (*found, *marks):
        np.testing.assert_allclose(seen.box, want, atol=0.5)
    points = POINTS * 2 * half + np.array([want[0] + half, want[1] + half])
    for face in found:
        np.testing.assert_allclose(face.landmarks, points, atol=0.5)
    for mark in marks:
        np.testing.assert_allclose(mark.points, points, atol=0.5)


def test_an_empty_picture_has_no_face():
    from pulid_extract.faces.antelopev2 import Antelope
    from pulid_extract.faces.crop import find_landmarks

    bgr = picture()
    assert Antelope(models_folder() / "antelopev2").detect(bgr) == []
    assert find_landmarks(loaded_retinaface(), bgr) == []
