"""Which face is meant: orders, points, indices; one choice for both networks; retries."""

from __future__ import annotations

import numpy as np
import pytest
from support.models.portrait_models import models_folder
from support.pictures.chosen_crops import crop, extractor
from support.pictures.coloured_faces import LARGE, MAGENTA, SMALL, A, B, C, face_box, picture

from pulid_extract import FaceBox
from pulid_extract.extraction.identity import Options
from pulid_extract.faces import antelopev2 as faces
from pulid_extract.faces import crop as face_crop
from pulid_extract.faces.choice import FaceChoice, in_order, pick
from pulid_extract.pictures import portrait, regions
from pulid_extract.shared.errors import FaceError, InputError

# left small, middle large, right middle-sized and low: every order is another one
BOXES = [(10.0, 40.0, 30.0, 60.0), (100.0, 20.0, 180.0, 100.0), (220.0, 150.0, 270.0, 200.0)]
SIZE = (300.0, 220.0)


def box_of(patch, half) -> tuple[int, int, int, int]:
    left, top, right, bottom = face_box(patch[0], patch[1], half)
    return left, top, right - left, bottom - top


# ----------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize(
    ("order", "want"),
    [
        ("largest", [1, 2, 0]),
        ("left", [0, 1, 2]),
        ("right", [2, 1, 0]),
        ("top", [0, 1, 2]),
        ("bottom", [2, 1, 0]),
        ("center", [1, 2, 0]),
    ],
)
def test_orders(order, want):
    assert in_order(BOXES, order, SIZE) == want
    assert [pick(BOXES, FaceChoice(order=order, index=index), SIZE) for index in range(3)] == want


def test_top_and_left_differ_where_the_faces_say_so():
    boxes = [BOXES[2], BOXES[0], (5.0, 190.0, 15.0, 200.0)]
    assert in_order(boxes, "left", SIZE) == [2, 1, 0]
    assert in_order(boxes, "top", SIZE) == [1, 0, 2]


def test_of_equals_the_last_is_the_largest_as_the_references_sort():
    boxes = [(0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 80.0, 80.0), (60.0, 60.0, 90.0, 90.0)]
    assert (
        pick(boxes, FaceChoice(), SIZE)
        == 2
        == sorted(range(3), key=lambda i: (boxes[i][2] - boxes[i][0]) ** 2)[-1]
    )


def test_a_point_takes_the_face_around_it_and_the_nearest_of_several():
    assert pick(BOXES, FaceChoice(at=(110, 30)), SIZE) == 1
    nested = [*BOXES, (225.0, 155.0, 235.0, 165.0)]
    assert pick(nested, FaceChoice(at=(229, 159)), SIZE) == 3
    assert pick(nested, FaceChoice(at=(260, 190)), SIZE) == 2


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (FaceChoice(index=3), r"--face-index 3: there are 3 faces, counted from 0"),
        (
            FaceChoice(at=(0, 219)),
            r"--face-at 0,219: no face is there; the nearest of 3 is around 20,50",
        ),
    ],
)
def test_a_face_that_is_not_there_is_an_error(choice, message):
    with pytest.raises(FaceError, match=message):
        pick(BOXES, choice, SIZE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"index": -1}, "counted from 0"),
        ({"order": "biggest"}, "expected one of largest, left"),
        ({"index": 1, "at": (1, 1)}, "one way"),
        ({"box": FaceBox(0, 0, 9, 9), "at": (1, 1)}, "one way"),
        ({"landmarks": ((1, 1),) * 4}, "4 points, expected 5"),
    ],
)
def test_choices_that_are_none_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        FaceChoice(**fields)


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        (FaceChoice(), "largest"),
        (FaceChoice(index=2), "largest 2"),
        (FaceChoice(order="left"), "left 0"),
        (FaceChoice(at=(1, 2)), "at"),
        (FaceChoice(box=FaceBox(1, 2, 3, 4)), "box"),
    ],
)
def test_the_word_for_the_file(choice, name):
    assert choice.name == name


# ------------------------------------------------------------ one choice, followed by both networks


@pytest.mark.parametrize(
    ("choice", "patch", "half"),
    [
        (FaceChoice(), A, LARGE),
        (FaceChoice(order="right"), B, SMALL),
        (FaceChoice(order="bottom"), C, SMALL),
        (FaceChoice(order="right", index=1), C, SMALL),
        (FaceChoice(at=(15 * 32 + 20, 6 * 32 + 10)), B, SMALL),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_one_choice_serves_both_networks(choice, patch, half):
    """The same numbers as a picture's in which that face is the only one: crop, ArcFace vector and
    place.
    """
    found = crop(choice)
    assert abs(found.box.x - box_of(patch, half)[0]) <= 1
    assert found.faces_found == 3
    assert found.face == choice.name
    antelope, bgr = extractor()._antelope, picture(A, B, C)[..., ::-1].copy()
    (face,) = [
        face for face in antelope.detect(bgr) if abs(face.box[0] - box_of(patch, half)[0]) < 1
    ]
    np.testing.assert_array_equal(found.vector, antelope.embed(bgr, face))
    (mark,) = [
        mark
        for mark in face_crop.find_landmarks(extractor()._retinaface, bgr)
        if abs(mark.box[0] - box_of(patch, half)[0]) < 1
    ]
    np.testing.assert_array_equal(found.crop, face_crop.align(bgr, mark.points)[..., ::-1])


def test_other_choices_give_other_faces():
    assert not np.array_equal(crop().crop, crop(FaceChoice(order="right")).crop)
    assert not np.allclose(crop().vector, crop(FaceChoice(order="right")).vector, atol=1e-3)


def test_choices_count_in_pixels_of_the_portrait():
    """A portrait above the limit is shrunk for the detectors; the point and the answer are in the
    portrait's own pixels.
    """
    large = picture(A, B, C).repeat(2, 0).repeat(2, 1)
    small = crop(FaceChoice(at=(15 * 32 + 20, 6 * 32 + 10)))
    found = extractor().detect(large)
    assert len(found) == 3
    one = extractor().crop(large, FaceChoice(at=(2 * (15 * 32 + 20), 2 * (6 * 32 + 10))))
    assert abs(one.box.x - 2 * small.box.x) <= 2
    assert abs(one.box.width - 2 * small.box.width) <= 2
    [before] = (face for face in extractor().detect(picture(A, B, C)) if _is_at(face, small.box))
    [after] = (face for face in found if _is_at(face, one.box))
    np.testing.assert_allclose(after.landmarks, before.landmarks * 2, atol=2)


def _is_at(face, box) -> bool:
    return abs(face.box[0] - box.x) <= 2


def test_a_choice_among_faces_that_only_retinaface_sees():
    patches = ((4, 5, MAGENTA), (14, 12, MAGENTA))
    assert (
        crop(FaceChoice(order="left"), patches).box.x
        < 300
        < crop(FaceChoice(order="right"), patches).box.x
    )


def test_detecting_needs_antelopev2_alone():
    from pulid_extract.extraction.extractor import Extractor

    alone = Extractor.load(models_dir=models_folder(), device="cpu", roles=("antelopev2",))
    assert set(alone.files) == {"antelopev2"}
    assert len(alone.detect(picture(A, B, C))) == 3
    assert alone.detect(picture()) == []
    with pytest.raises(InputError, match="loaded without RetinaFace"):
        alone.crop(picture(A))


# ---------------------------------------------------------------------------------------- landmarks


def test_landmarks_by_hand_align_directly():
    from pulid_extract.extraction.extractor import Extractor

    points = tuple((float(x), float(y)) for x, y in crop().landmarks)
    by_hand = Extractor.load(models_dir=models_folder(), device="cpu", detect=False)
    found = by_hand.crop(picture(A, B, C), FaceChoice(landmarks=points))
    np.testing.assert_array_equal(found.crop, crop().crop)
    assert (found.face, found.score, found.faces_found) == ("landmarks", None, 0)
    assert "detection" not in by_hand._antelope._models
    np.testing.assert_allclose(
        found.vector, crop().vector, atol=0.05 * np.abs(crop().vector).max()
    )  # RetinaFace's points, not SCRFD's
    shifted = by_hand.crop(
        picture(A, B, C), FaceChoice(landmarks=tuple((x + 40, y) for x, y in points))
    )
    assert not np.array_equal(shifted.crop, found.crop)


def test_landmarks_on_one_spot_are_an_error():
    with pytest.raises(FaceError, match="lie on top of each other"):
        extractor().crop(picture(A), FaceChoice(landmarks=((30.0, 30.0),) * 5))


@pytest.mark.parametrize("shift", [(9000, 0), (0, 9000), (-9000, 0), (0, -9000)])
def test_landmarks_outside_the_portrait_are_an_error(shift):
    points = tuple((float(x + shift[0]), float(y + shift[1])) for x, y in crop().landmarks)
    with pytest.raises(
        InputError, match="--landmarks: lie outside the portrait, which is 640x640 pixels"
    ):
        extractor().crop(picture(A, B, C), FaceChoice(landmarks=points))


# ------------------------------------------------------------------------------- retries, threshold


class Detector:
    """Stands for SCRFD: answers at the sizes it is told, and notes what it was asked."""

    model_file, taskname = "fake.onnx", "detection"

    def __init__(self, answers: set[int]):
        self.answers, self.asked = answers, []

    def detect(self, image, input_size, det_thresh):
        self.asked.append((input_size[0], image.shape[1], det_thresh))
        found = int(input_size[0] in self.answers)
        box = np.float32([[10, 10, 60, 70, 0.9]]).repeat(found, 0)
        return box, np.float32([[[20, 30], [50, 30], [35, 45], [25, 60], [45, 60]]]).repeat(
            found, 0
        )


def antelope_of(answers) -> tuple[faces.Antelope, Detector]:
    antelope, detector = faces.Antelope(models_folder() / "antelopev2"), Detector(answers)
    antelope._models["detection"] = detector
    return antelope, detector


@pytest.mark.parametrize(
    ("answers", "asked"),
    [({640, 320}, [640]), ({320}, [640, 480, 320]), (set(), [640, 480, 320, 160])],
)
def test_smaller_sizes_are_tried_only_when_nothing_is_found(answers, asked):
    antelope, detector = antelope_of(answers)
    lines: list[str] = []
    assert len(antelope.detect(np.zeros((100, 100, 3), np.uint8), log=lines.append)) == bool(
        answers
    )
    assert [size for size, *_ in detector.asked] == asked
    assert bool(lines) == (len(asked) > 1 and bool(answers))


def test_the_last_resort_is_a_margin_and_leads_back_to_the_portraits_pixels():
    from pulid_extract.extraction.extractor import Extractor

    class OnlyWide(Detector):
        def detect(self, image, input_size, det_thresh):
            self.answers = {640} if image.shape[1] > 200 else set()
            return super().detect(image, input_size, det_thresh)

    one = Extractor(extractor().files, "cpu")
    antelope, _ = antelope_of(set())
    antelope._models["detection"] = OnlyWide(set())
    one.__dict__["_antelope"] = antelope
    (face,) = one.detect(np.zeros((120, 160, 3), np.uint8))
    # half the picture's size was put around it
    assert face.box == (10 - 80, 10 - 60, 60 - 80, 70 - 60)
    np.testing.assert_array_equal(face.landmarks[0], (20 - 80, 30 - 60))


def test_with_margin_maps_back_whatever_the_size():
    for height, width in ((600, 900), (101, 64)):
        image = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
        padded, scale, shift = portrait.with_margin(image)
        assert max(padded.shape) <= 1024
        corner = ((0 - shift[0]) / scale[0], (0 - shift[1]) / scale[1])
        assert corner == pytest.approx((padded.shape[1] / 4, padded.shape[0] / 4), rel=0.02)
        assert (padded[0, 0] == regions.PAD_RGB[::-1]).all()


def test_a_face_that_fills_the_frame_is_found(tmp_path):
    """The matched filter of the micro models knows faces up to 328 pixels of 640: a crop of just
    the face is larger.
    """
    from PIL import Image
    from seeded import micro_antelopev2
    from seeded.astronaut import portrait as astronaut

    from pulid_extract.extraction.extractor import Extractor

    micro_antelopev2.write_pack(tmp_path, 0)
    face = np.asarray(Image.fromarray(astronaut()).crop((166, 62, 280, 182)).resize((456, 480)))
    one = Extractor.load(
        models_dir=models_folder(), antelopev2=tmp_path, device="cpu", roles=("antelopev2",)
    )
    assert one._antelope._detect_at(face[..., ::-1].copy(), 640, 0.5) == []
    (found,) = one.detect(face)
    assert faces.overlap(found.box, (40, 40, 412, 432)) > 0.7


def test_the_threshold_decides():
    bgr = picture(A)[..., ::-1].copy()
    (face,) = extractor()._antelope.detect(bgr)
    assert extractor()._antelope.detect(bgr, threshold=face.score + 1e-4) == []
    assert len(extractor()._antelope.detect(bgr, threshold=face.score - 1e-4)) == 1
    assert (
        Options().retinaface_confidence == Options(det_threshold=0.6).retinaface_confidence == 0.97
    )
    assert Options(det_threshold=0.2).retinaface_confidence == 0.2
    for threshold in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="above 0 and below 1"):
            Options(det_threshold=threshold)
