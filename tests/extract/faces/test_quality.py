"""How good a portrait is: pose from five landmarks, sharpness, what the parse map says, and what is
advised.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from micro_world.dataset import ARCFACE
from seeded.astronaut import LANDMARKS, portrait

from pulid_extract.faces import crop as face_crop
from pulid_extract.faces import quality
from pulid_extract.faces.head_pose import DISTANCE, GENERIC_FACE, Pose, head_pose
from pulid_extract.faces.quality import FACE_LABELS, LIMITS, judge


def aligned(blur: float = 0.0, points=LANDMARKS) -> np.ndarray:
    image = portrait()[..., ::-1].copy()
    image = cv2.GaussianBlur(image, (0, 0), blur) if blur else image
    return face_crop.align(image, np.array(points))


def report(**changes) -> quality.Quality:
    good = {
        "crop": aligned(),
        "labels": np.ones((512, 512), np.uint8),
        "box": (100.0, 100.0, 400.0, 420.0),
        "size": (800.0, 800.0),
        "pose": Pose(3, -4, 1),
        "score": 0.9,
        "faces": 1,
        "taken": "the largest",
    }
    return judge(**good | changes)


# --------------------------------------------------------------------------------------------- pose


def seen(yaw: float, pitch: float, roll: float, distance: float) -> np.ndarray:
    """The generic face turned by these degrees (our signs) and photographed from a distance in
    centimetres: (5, 2) pixels.
    """
    y, p, r = np.radians([-yaw, -pitch, roll])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    points = GENERIC_FACE @ (about_z @ about_y @ about_x).T
    return points[:, :2] / (points[:, 2:] + distance) * distance * 20 + (640, 480)


@pytest.mark.parametrize(
    "angles",
    [(0, 0, 0), (30, 0, 0), (-62, 0, 0), (0, 20, 0), (0, -25, 0), (0, 0, 25), (40, -15, 10)],
)
@pytest.mark.parametrize(
    ("distance", "tolerance"), [(DISTANCE, 2.5), (1e5, 2.5), (DISTANCE / 2, 6)]
)
def test_a_turned_head_is_measured(angles, distance, tolerance):
    pose = head_pose(seen(*angles, distance))
    np.testing.assert_allclose((pose.yaw, pose.pitch, pose.roll), angles, atol=tolerance)


@pytest.mark.parametrize("template", [face_crop.TEMPLATE, ARCFACE], ids=["FFHQ", "ArcFace"])
def test_the_templates_of_both_alignments_look_at_the_camera(template):
    pose = head_pose(template)
    assert abs(pose.yaw) < 1
    assert abs(pose.pitch) < 5
    assert abs(pose.roll) < 1


def test_signs_are_those_of_the_picture():
    right, up = face_crop.TEMPLATE.copy(), face_crop.TEMPLATE.copy()
    right[2, 0] += 25  # the nose moves to the right edge, or up
    up[2, 1] -= 25
    assert head_pose(right).yaw > 10
    assert head_pose(up).pitch > 10


def test_size_and_place_do_not_matter():
    one, other = head_pose(np.array(LANDMARKS)), head_pose(np.array(LANDMARKS) * 7.3 + (500, -90))
    assert (one.yaw, one.pitch, one.roll) == pytest.approx(
        (other.yaw, other.pitch, other.roll), abs=0.01
    )


@pytest.mark.parametrize(
    "points", [np.full((5, 2), 30.0), np.outer(np.arange(5), (1, 2)), np.full((5, 2), np.nan)]
)
def test_landmarks_that_are_no_face_have_no_pose(points):
    assert head_pose(points) is None


# ---------------------------------------------------------------------------------------- sharpness


def test_blur_lowers_sharpness_and_light_does_not():
    levels = [quality.sharpness(aligned(blur)) for blur in (0, 1, 1.5, 2)]
    assert levels == sorted(levels, reverse=True)
    # the numbers in the table's comment
    assert levels[0] > LIMITS["sharpness"].good > LIMITS["sharpness"].warn > levels[2]
    assert levels == pytest.approx([0.089, 0.011, 0.0047, 0.0025], rel=0.08)
    dark = (aligned() * 0.4).astype(np.uint8)
    assert quality.sharpness(dark) == pytest.approx(levels[0], rel=0.1)


def test_a_flat_crop_is_not_sharp():
    assert quality.sharpness(np.full((512, 512, 3), 90, np.uint8)) == 0


# ------------------------------------------------------------------------------------------- report


def labelled(label: int, rows: slice, columns: slice = slice(0, 512)) -> np.ndarray:
    labels = np.ones((512, 512), np.uint8)
    labels[rows, columns] = label
    return labels


def test_a_good_portrait_has_nothing_to_improve():
    best = report()
    assert best.warnings == ()
    assert best.value == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "name", "advice"),
    [
        ({"box": (100, 100, 180, 220)}, "face_size", "a face of 80 pixels is enlarged"),
        ({"crop": aligned(2.0)}, "sharpness", r"blurred \(sharpness 0\.002"),
        ({"pose": Pose(62, 0, 0)}, "yaw", "profile of 62 degrees: likeness will suffer"),
        ({"pose": Pose(-62, 0, 0)}, "yaw", "profile of 62 degrees"),
        ({"pose": Pose(0, -35, 0)}, "pitch", "head tilted 35 degrees"),
        ({"labels": labelled(16, slice(300, 512))}, "covered", r"5\d% of the face is covered"),
        (
            {"labels": labelled(6, slice(230, 260))},
            "glasses",
            "glasses: they will be in every picture",
        ),
        ({"labels": labelled(18, slice(0, 90))}, "hat", "a hat: it is cut out"),
        ({"box": (-60, 100, 240, 400)}, "outside", "cut off: 20% of it is outside"),
        ({"score": 0.55}, "score", r"unsure \(score 0\.55\)"),
        ({"faces": 50}, "faces", "50 faces: the largest was taken"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(changes, name, advice):
    import re

    worse = report(**changes)
    assert [warning.name for warning in worse.warnings] == [name]
    assert re.search(advice, worse.warnings[0].advice)
    assert "\n" not in worse.warnings[0].advice
    assert worse.value < 1 or name == "faces"  # company is not the portrait's fault


@pytest.mark.parametrize(
    "changes", [{"taken": None, "faces": 50}, {"pose": None}, {"score": None}, {"labels": None}]
)
def test_what_was_said_by_hand_or_cannot_be_known_is_no_warning(changes):
    assert report(**changes).warnings == ()


def test_in_a_profile_pitch_is_not_judged():
    assert [warning.name for warning in report(pose=Pose(75, 45, 0)).warnings] == ["yaw"]


def test_the_value_falls_from_good_to_bad_and_stays_in_range():
    turned = [report(pose=Pose(yaw, 0, 0)).value for yaw in (0, 25, 40, 60, 90, 170)]
    assert turned == sorted(turned, reverse=True)
    assert turned[1] == 1 > turned[2]
    worst = report(
        pose=Pose(90, 70, 0), score=0.0, box=(0, 0, 1, 1), crop=np.zeros((512, 512, 3), np.uint8)
    )
    assert 0 <= worst.value < 0.01


@pytest.mark.parametrize("name", LIMITS)
def test_every_limit_warns_between_good_and_bad(name):
    limit = LIMITS[name]
    assert min(limit.good, limit.bad) <= limit.warn <= max(limit.good, limit.bad)
    assert not limit.exceeded(limit.good)
    assert limit.exceeded(limit.bad)
    assert limit.factor(limit.good) == 1
    assert limit.factor(limit.bad) == limit.floor


def test_labels_are_those_of_the_reference():
    """The reference paints eight labels white; a face's own are none of them, nor hair, which may
    lie over a face.
    """
    assert not set(FACE_LABELS) & {*face_crop.BACKGROUND_LABELS, 17}
    assert {*FACE_LABELS, *face_crop.BACKGROUND_LABELS, 17} == set(range(19))


def test_the_ellipse_holds_the_templates_landmarks():
    inside = quality.face_ellipse(512)
    assert all(inside[round(y), round(x)] for x, y in face_crop.TEMPLATE)
    assert not inside[0].any()


def test_as_dict_is_json_and_line_is_one_line():
    import json

    plain = json.loads(json.dumps(report(pose=Pose(62, 0, 0), labels=None).as_dict()))
    assert plain["warnings"] == {
        "yaw": "profile of 62 degrees: likeness will suffer; take one that looks at the camera"
    }
    assert plain["covered"] is None
    assert report().line().startswith("quality 1.00: face 300 px")
    assert "pose not known" in report(pose=None, score=None).line()
