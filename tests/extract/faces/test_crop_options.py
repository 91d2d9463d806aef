"""What masks, parsers and aligners change of a crop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.pictures.chosen_crops import crop, extractor
from support.pictures.coloured_faces import MAGENTA, RED, YELLOW, A, B, C, picture

from pulid_extract import FaceBox
from pulid_extract.extraction.identity import Options
from pulid_extract.faces import antelopev2 as faces
from pulid_extract.faces import crop as face_crop
from pulid_extract.faces.choice import FaceChoice
from pulid_extract.pictures import regions
from pulid_extract.shared.errors import FaceError, InputError


def halved(left: bool) -> np.ndarray:
    keep = np.zeros((640, 640), bool)
    keep[:, : 5 * 32 + 16] = True
    return keep if left else ~keep


def test_a_mask_is_warped_as_the_face_is_and_white_outside():
    """Kept left of the face's centre: the left half of the crop stays, the right half is white.
    ArcFace is not masked.
    """
    plain, kept = crop(), extractor().crop(picture(A, B, C), keep=halved(left=True))
    np.testing.assert_array_equal(kept.vector, plain.vector)
    np.testing.assert_array_equal(kept.crop, plain.crop)
    np.testing.assert_array_equal(kept.grey_face[:, :240], plain.grey_face[:, :240])
    assert (kept.grey_face[:, 270:] == 255).all()
    other = extractor().crop(picture(A, B, C), keep=halved(left=False))
    assert (other.grey_face[:, :240] == 255).all()
    np.testing.assert_array_equal(other.grey_face[:, 270:], plain.grey_face[:, 270:])


def test_a_mask_that_keeps_all_changes_nothing_even_beyond_the_border():
    corner = picture((1, 1, RED))
    plain = extractor().crop(corner)
    assert plain.quality.outside > 0.05
    np.testing.assert_array_equal(
        extractor().crop(corner, keep=np.ones((640, 640), bool)).grey_face, plain.grey_face
    )


def test_a_mask_with_a_box_by_hand():
    choice = FaceChoice(box=FaceBox(0, 64, 512, 512))
    kept = extractor().crop(picture(A), choice, halved(left=True))
    assert (kept.grey_face[:, 176:] == 255).all()
    assert (kept.grey_face[:, :176] < 255).all()


def test_a_mask_that_hides_the_face_is_an_error():
    keep = np.zeros((640, 640), bool)
    keep[600:, 600:] = True
    with pytest.raises(FaceError, match="--mask and --box leave nothing of the face"):
        extractor().crop(picture(A), keep=keep)


def test_what_is_kept_is_mask_and_boxes():
    size, mask = (40, 20), np.zeros((20, 40, 3), np.uint8)
    mask[:, :20] = 255
    assert regions.keep_of(size, None, [], "x") is None
    assert regions.keep_of(size, mask, [], "x").sum() == 400
    boxes = [FaceBox(0, 0, 10, 20), FaceBox(30, 0, 10, 20)]
    assert regions.keep_of(size, None, boxes, "x").sum() == 400
    assert regions.keep_of(size, mask, boxes, "x").sum() == 200
    with pytest.raises(
        InputError, match=r"m\.png: the mask is 40x20, the upright portrait is 40x30"
    ):
        regions.keep_of((40, 30), mask, [], "m.png")
    with pytest.raises(InputError, match="--box 30,0,11,20: reaches outside"):
        regions.keep_of(size, None, [FaceBox(30, 0, 11, 20)], "x")


def test_without_a_parser_the_whole_crop_is_grey_and_no_parser_is_loaded(monkeypatch):
    """As the reference's grey_on_white with a label map that is face everywhere; here the parser of
    the test world says just that.
    """
    free = extractor(parser="none")
    assert "bisenet" not in free.files
    found = free.crop(picture(A, B, C))
    np.testing.assert_array_equal(found.grey_face, crop().grey_face)
    assert (found.labels == 1).all()
    assert found.quality.covered is None
    background = lambda parser, face: face[:, :1].long() * 0 + (face[:, :1] > 0.5)  # noqa: E731
    monkeypatch.setattr(face_crop, "parse_face", background)
    np.testing.assert_array_equal(free.crop(picture(A, B, C)).grey_face, found.grey_face)
    assert not np.array_equal(extractor().crop(picture(A, B, C)).grey_face, found.grey_face)


def test_the_second_aligner_uses_antelopev2s_landmarks_and_needs_no_retinaface():
    own = extractor(aligner="antelopev2")
    assert "retinaface" not in own.files
    # RetinaFace does not see yellow
    found = own.crop(picture(A, (9, 12, YELLOW)), FaceChoice(at=(9 * 32 + 16, 12 * 32 + 16)))
    bgr = picture(A, (9, 12, YELLOW))[..., ::-1].copy()
    (face,) = [face for face in own._antelope.detect(bgr) if face.box[0] > 150]
    np.testing.assert_array_equal(found.crop, face_crop.align(bgr, face.landmarks)[..., ::-1])
    with pytest.raises(FaceError, match="RetinaFace's nearest"):
        extractor().crop(picture(A, (9, 12, YELLOW)), FaceChoice(at=(9 * 32 + 16, 12 * 32 + 16)))
    with pytest.raises(FaceError, match="no face found by antelopev2"):
        own.crop(picture((9, 9, MAGENTA)))


def test_defaults_are_the_references(monkeypatch):
    """A default choice is the largest face by both spellings, and asks the detectors once, at the
    reference's sizes and thresholds.
    """
    asked = []
    detect = faces.Antelope._detect_at
    monkeypatch.setattr(
        faces.Antelope,
        "_detect_at",
        lambda self, image, size, threshold: (
            asked.append((size, threshold)) or detect(self, image, size, threshold)
        ),
    )
    found = extractor().crop(picture(A, B, C))
    assert asked == [(640, 0.5)]
    np.testing.assert_array_equal(found.crop, crop(FaceChoice(order="largest", index=0)).crop)
    assert replace(Options()) == Options("retinaface", "bisenet", 0.5)
