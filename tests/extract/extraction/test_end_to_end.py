"""The whole of stage one on the small world: which face both networks see, and what the identity
holds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.models.portrait_models import models_folder
from support.pictures.coloured_faces import MAGENTA, YELLOW, picture
from support.pictures.extractions import CORNER, MIDDLE, box_of, crop, extractor, identity

from pulid_extract import FaceBox
from pulid_extract.faces import antelopev2 as faces
from pulid_extract.faces import crop as face_crop
from pulid_extract.faces.choice import FaceChoice
from pulid_extract.pictures.portrait import Photo
from pulid_extract.shared.errors import FaceError, InputError, WeightsError

# --------------------------------------------------------------------------------- which face it is


def test_both_networks_see_the_largest_face_of_a_group():
    group, alone = crop(CORNER, MIDDLE), crop(CORNER)
    assert group.faces_found == 2
    assert alone.faces_found == 1
    assert group.box == alone.box == box_of(CORNER)
    np.testing.assert_array_equal(group.crop, alone.crop)
    np.testing.assert_array_equal(identity(CORNER, MIDDLE).tokens, identity(CORNER).tokens)


def test_another_face_gives_other_tokens():
    """The equality above can fail: through the crop, and through the ArcFace vector alone."""
    alone, other = identity(CORNER), identity(MIDDLE)
    assert not np.allclose(alone.tokens, other.tokens, atol=1e-3)
    antelope, pictures = (
        extractor()._antelope,
        [picture(patch)[..., ::-1].copy() for patch in (CORNER, MIDDLE)],
    )
    vectors = [antelope.embed(bgr, antelope.detect(bgr)[0]) for bgr in pictures]
    assert not np.allclose(*vectors, atol=1e-3)


def test_the_shapes_and_ranges_of_an_identity():
    one, cut = identity(CORNER), crop(CORNER)
    assert one.tokens.shape == (32, 2048)
    assert one.tokens.dtype == np.float32
    assert one.uncond is None
    assert cut.crop.shape == cut.grey_face.shape == (512, 512, 3)
    assert cut.crop.dtype == cut.grey_face.dtype == cut.labels.dtype == np.uint8
    assert cut.labels.shape == (512, 512)
    assert (cut.labels == 1).all()
    assert (cut.grey_face[..., 0] == cut.grey_face[..., 1]).all()
    assert cut.vector.shape == (512,)
    assert cut.landmarks.shape == (5, 2)
    assert cut.face == "largest"
    assert cut.score is not None
    assert 0.9 < cut.score <= 1
    assert 0 <= cut.quality.value <= 1


def test_detectors_that_mean_different_faces_are_an_error():
    with pytest.raises(
        FaceError, match=r"detectors disagree: insightface's largest face is at 0,0,176,176 .* 0\.3"
    ):
        extractor().extract(picture((2, 2, YELLOW), (14, 14, MAGENTA)))


@pytest.mark.parametrize(("shift", "shared", "same"), [(0.5, 0.33, True), (0.6, 0.25, False)])
def test_boxes_are_one_face_from_an_overlap_of_three_tenths(monkeypatch, shift, shared, same):
    """shift: of RetinaFace's box, in widths of the other; the overlap is (1 - shift) / (1 +
    shift).
    """
    left, top, right, bottom = (
        extractor()._antelope.detect(picture(CORNER)[..., ::-1].copy())[0].box
    )
    find = face_crop.find_landmarks

    def shifted(detector, image, confidence):
        moved = (left + shift * (right - left), top, right + shift * (right - left), bottom)
        assert faces.overlap((left, top, right, bottom), moved) == pytest.approx(shared, abs=0.01)
        return [replace(mark, box=moved) for mark in find(detector, image, confidence)]

    monkeypatch.setattr(face_crop, "find_landmarks", shifted)
    if same:
        assert extractor().extract(picture(CORNER)).tokens.shape == (32, 2048)
    else:
        with pytest.raises(FaceError, match="detectors disagree"):
            extractor().extract(picture(CORNER))


def test_a_face_only_insightface_sees_is_an_error():
    with pytest.raises(FaceError, match="RetinaFace sees none, insightface finds 1"):
        extractor().extract(picture((9, 9, YELLOW)))


def test_a_crop_in_which_the_parser_sees_no_face_is_an_error(monkeypatch):
    """EVA-CLIP would see a white square, and the embedding would be of nobody."""
    monkeypatch.setattr(face_crop, "parse_face", lambda parser, face: face[:, :1].long() * 0)
    with pytest.raises(FaceError, match="the face parser sees no face in the crop"):
        extractor().extract(picture(CORNER))


def test_a_picture_without_a_face_is_an_error():
    with pytest.raises(FaceError, match="no face found"):
        extractor().extract(picture())


def test_a_face_only_retinaface_sees_goes_to_arcface_as_the_aligned_crop():
    patch = (9, 9, MAGENTA)
    found = crop(patch)
    np.testing.assert_array_equal(
        found.vector, extractor()._antelope.embed_crop(found.crop[..., ::-1].copy())
    )
    assert found.faces_found == 1
    assert found.box == box_of(patch)


def test_boxes_are_told_in_pixels_of_the_portrait():
    """A portrait above the limit is shrunk for the detectors; boxes count in the portrait's own
    pixels, inside it.
    """
    photo = Photo(np.zeros((640, 2048, 3), np.uint8), np.zeros((320, 1024, 3), np.uint8))
    assert photo.in_portrait((10, 20, 30.2, 100)) == FaceBox(20, 40, 40, 160)
    assert photo.in_portrait((-10, -20, 30, 999)) == FaceBox(0, 0, 60, 640)


# ------------------------------------------------------------------------------------------ by hand


def test_a_box_by_hand_needs_no_detector():
    from pulid_extract.extraction.extractor import Extractor

    by_hand = Extractor.load(models_dir=models_folder(), device="cpu", detect=False)
    assert "retinaface" not in by_hand.files
    (one,) = by_hand.extract(
        picture(CORNER, MIDDLE), FaceChoice(box=FaceBox(100, 64, 512, 400))
    ).crops
    assert one.face == "box"
    assert one.score is None
    assert one.faces_found == 0
    assert "_retinaface" not in by_hand.__dict__
    assert list(by_hand._antelope._models) == ["recognition"]
    # squared around the centre
    np.testing.assert_array_equal(one.crop, picture(CORNER, MIDDLE)[8 : 8 + 512, 100 : 100 + 512])
    with pytest.raises(InputError, match="loaded without RetinaFace"):
        by_hand.extract(picture(CORNER))


# -------------------------------------------------------------------------------------- uncond, NaN


def test_uncond_is_the_encoder_on_zeros():
    import torch

    both = extractor().extract(
        picture(CORNER), FaceChoice(box=FaceBox(0, 0, 512, 512)), with_uncond=True
    )
    zeros = [torch.zeros(1, 17, 128)] * 5
    want = extractor()._idformer(torch.zeros(1, 512 + 96), zeros)[0].numpy()
    np.testing.assert_array_equal(both.uncond, want)
    assert not np.allclose(both.uncond, both.tokens)


def test_the_condition_is_raw_arcface_and_a_normalised_pooled_vector():
    vector = np.linspace(-30, 30, 512, dtype=np.float32)
    features = extractor().features(replace(crop(CORNER), vector=vector))
    np.testing.assert_array_equal(features.condition[0, :512].numpy(), vector)
    assert features.condition[0, 512:].norm().item() == pytest.approx(1, abs=1e-5)
    assert [tuple(hidden.shape) for hidden in features.hidden_states] == [(1, 17, 128)] * 5


def test_weights_that_give_nan_are_an_error(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    state = load_file(models_folder() / "pulid.safetensors")
    state["pulid_encoder.proj_out"][0, 0] = torch.nan
    save_file(state, tmp_path / "pulid.safetensors")
    with pytest.raises(WeightsError, match="NaN"):
        extract_with(tmp_path / "pulid.safetensors")


def extract_with(weights):
    """One portrait with other weights of PuLID."""
    from pulid_extract.extraction.extractor import Extractor

    other = Extractor.load(
        models_dir=models_folder(), pulid_weights=weights, device="cpu", detect=False
    )
    return other.extract(picture(), FaceChoice(box=FaceBox(0, 0, 512, 512)))


def test_an_encoder_for_another_tower_is_refused(tmp_path):
    from safetensors.torch import save_file
    from support.models.portrait_models import pulid_state

    save_file(pulid_state(cond_dim=512 + 768), tmp_path / "pulid.safetensors")
    with pytest.raises(WeightsError, match="wants a condition of 1280"):
        extract_with(tmp_path / "pulid.safetensors")


def test_a_device_that_is_not_there_is_an_error():
    import torch

    from pulid_extract.extraction.extractor import choose_device

    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in ("cpu", "cuda", "mps")
    if not torch.backends.mps.is_available():
        with pytest.raises(InputError, match="--device mps: not on this machine"):
            choose_device("mps")
