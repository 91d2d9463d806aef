"""Whose face is which, and which faces count in which order."""

from __future__ import annotations

import numpy as np
import pytest

from pulid_generate.detail.choice import Wanted, choose_faces, share_inside
from pulid_generate.detail.faces import FoundFace, counted_faces
from pulid_generate.request.passes.detail import DetailSettings
from pulid_generate.request.people.regions import box_region

WIDTH, HEIGHT = 128, 64
LEFT, RIGHT = (10, 10, 20, 20), (90, 8, 30, 40)
BETWEEN = (54, 10, 20, 20)


def face(box, score=0.9, **likeness) -> FoundFace:
    return FoundFace(box, score, likeness)


def region(x: int, width: int) -> np.ndarray:
    return box_region((x, 0, width, HEIGHT), WIDTH, HEIGHT).reshape(HEIGHT // 16, WIDTH // 16)


def test_the_only_person_has_the_largest_face():
    assert choose_faces([face(LEFT), face(RIGHT)], [Wanted("me")]) == [None, 0]
    assert choose_faces([face(RIGHT), face(LEFT)], [Wanted("me")]) == [0, None]
    assert choose_faces([], [Wanted("me")]) == []


def test_likeness_comes_before_size():
    faces = [face(LEFT, me=0.3), face(RIGHT, me=0.1)]
    assert choose_faces(faces, [Wanted("me")]) == [0, None]


def test_a_region_comes_before_likeness():
    people = [Wanted("me", region(0, 64)), Wanted("you", region(64, 64))]
    faces = [face(RIGHT, me=0.9, you=0.1), face(LEFT, me=0.1, you=0.9)]
    assert choose_faces(faces, people) == [1, 0]
    # of several in it, the one that is most like the person; the others are nobody's
    two = [face((2, 2, 30, 30), me=0.1), face((40, 30, 10, 10), me=0.2)]
    assert choose_faces(two, people) == [None, 0]


def test_a_face_between_two_regions_is_nobodys():
    people = [Wanted("me", region(0, 48)), Wanted("you", region(80, 48))]
    assert choose_faces([face(BETWEEN), face(LEFT), face(RIGHT)], people) == [None, 0, 1]


def test_what_two_people_claim_goes_to_whom_it_is_more_like():
    people = [Wanted("me"), Wanted("you")]
    faces = [face(LEFT, me=0.6, you=0.7), face(RIGHT, me=0.5, you=0.1)]
    assert choose_faces(faces, people) == [1, 0]
    assert choose_faces(faces[:1], people) == [1]


def test_the_share_of_a_face_in_a_region():
    whole = np.ones((HEIGHT // 16, WIDTH // 16), np.float32)
    assert share_inside(face(LEFT), whole) == 1
    assert share_inside(face((120, 50, 40, 40)), whole) == 1  # beyond the picture is not counted
    assert share_inside(face((-50, 0, 20, 20)), whole) == 0
    half = whole.copy()
    half[:, 4:] = 0
    assert share_inside(face((56, 0, 16, 16)), half) == pytest.approx(0.5)


SORTED = {
    "none": ["sure", "left", "large"],
    "area": ["large", "left", "sure"],
    "left_to_right": ["left", "sure", "large"],
    "center_to_edge": ["sure", "large", "left"],
}
FACES = {
    "large": face((80, 0, 40, 60), 0.5),
    "left": face((0, 0, 20, 20), 0.8),
    "sure": face((60, 30, 4, 4), 0.9),
}


@pytest.mark.parametrize(("order", "names"), SORTED.items())
def test_the_order_of_faces_is_sd_clis(order, names):
    found = counted_faces(list(FACES.values()), DetailSettings(sort_by=order), WIDTH, HEIGHT)
    assert found == [FACES[name] for name in names]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"max_detections": 2}, ["sure", "left"]),
        ({"mask_k_largest": 2}, ["left", "large"]),
        ({"mask_min_ratio": 0.01}, ["left", "large"]),
        ({"mask_max_ratio": 0.1}, ["sure", "left"]),
        ({"mask_min_ratio": 0.9}, []),
    ],
)
def test_faces_that_are_left_out(settings, names):
    found = counted_faces(list(FACES.values()), DetailSettings(**settings), WIDTH, HEIGHT)
    assert found == [FACES[name] for name in names]
