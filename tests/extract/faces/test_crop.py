"""The face that EVA-CLIP sees: aligned, parsed, grey on white, as the reference has it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from seeded.tensors import seeded
from support.distances import relative
from support.paths import GOLDEN

from pulid_extract.faces import crop as face_crop
from pulid_extract.networks import eva_clip
from pulid_extract.shared.errors import FaceError, WeightsError


def golden_face() -> tuple[np.ndarray, torch.Tensor]:
    """The golden test's aligned face, uint8 BGR (512, 512, 3), and its labels (1, 1, 512, 512)."""
    low = np.clip(seeded("in.aligned_face", (1, 3, 32, 32), 0.25, 0.5), 0, 1)
    rgb = np.round(low.repeat(16, 2).repeat(16, 3) * 255).astype(np.uint8)[0].transpose(1, 2, 0)
    cells = np.clip(
        np.floor((seeded("in.labels", (16, 16)) / np.sqrt(3) + 1) / 2 * 19), 0, 18
    ).astype(np.int64)
    return np.ascontiguousarray(rgb[..., ::-1]), torch.from_numpy(
        cells.repeat(32, 0).repeat(32, 1)
    )[None, None]


def test_face_features_are_the_references():
    golden = load_file(GOLDEN / "face_features.safetensors")
    crop, labels = golden_face()
    grey = face_crop.grey_on_white(face_crop.to_tensor(crop), labels)
    pixels = eva_clip.preprocess(grey, 336)
    assert relative(grey[:, :1, ::8, ::8], golden["masked_gray"]) <= 1e-6
    assert relative(pixels[:, :, ::8, ::8], golden["pixels"]) <= 1e-5
    assert relative(pixels.mean((2, 3)), golden["pixels_channel_means"]) <= 1e-5
    plain = (
        pixels * torch.tensor(eva_clip.STD)[:, None, None]
        + torch.tensor(eva_clip.MEAN)[:, None, None]
    )
    assert plain.max() > 1.01  # bicubic overshoots, and nothing clamps it
    swapped = face_crop.grey_on_white(face_crop.to_tensor(crop[..., ::-1]), labels)
    # RGB for BGR would be seen
    assert relative(swapped[:, :1, ::8, ::8], golden["masked_gray"]) > 1e-3


def test_antialias_is_on():
    from torchvision.transforms.functional import InterpolationMode, resize

    noise = torch.rand(1, 3, 512, 512)
    off = resize(noise, [336, 336], InterpolationMode.BICUBIC, antialias=False)
    ours = (
        eva_clip.preprocess(noise, 336) * torch.tensor(eva_clip.STD)[:, None, None]
        + torch.tensor(eva_clip.MEAN)[:, None, None]
    )
    assert (ours - off).abs().mean() > 0.05


def test_background_labels():
    face = torch.full((1, 3, 1, 19), 0.25)
    grey = face_crop.grey_on_white(face, torch.arange(19)[None, None, None])
    white = [i for i in range(19) if grey[0, 0, 0, i] == 1]
    assert white == sorted([0, 16, 18, 7, 8, 9, 14, 15])
    assert grey.shape == (1, 3, 1, 19)


def test_parsing_normalises():
    seen = {}

    def parser(pixels):
        seen["pixels"] = pixels
        return torch.eye(19)[3].view(1, 19, 1, 1).expand(1, 19, 4, 4)

    labels = face_crop.parse_face(parser, torch.full((1, 3, 4, 4), 0.5))
    assert (labels == 3).all()
    assert labels.shape == (1, 1, 4, 4)
    want = [
        (0.5 - mean) / std
        for mean, std in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ]
    np.testing.assert_allclose(seen["pixels"][0, :, 0, 0], want, rtol=1e-5)


def test_align_is_facexlibs_own():
    from facexlib.utils.face_restoration_helper import FaceRestoreHelper

    helper = FaceRestoreHelper.__new__(FaceRestoreHelper)  # its __init__ would fetch parsenet
    helper.pad_blur, helper.face_size, helper.face_template = False, (512, 512), face_crop.TEMPLATE
    helper.clean_all()
    image = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    points = np.array([[110, 90], [180, 100], [150, 140], [115, 180], [170, 185]], np.float32)
    helper.input_img, helper.all_landmarks_5 = image, [points]
    helper.align_warp_face()
    ours = face_crop.align(image, points)
    np.testing.assert_array_equal(ours, helper.cropped_faces[0])
    assert ours.shape == (512, 512, 3)
    corner = face_crop.align(image, points - 100)
    assert (corner[0, 0] == (135, 133, 132)).all()


def test_landmarks_without_extent_are_an_error():
    with pytest.raises(FaceError, match="landmarks lie on top"):
        face_crop.align(np.zeros((64, 64, 3), np.uint8), np.full((5, 2), 30, np.float32))


def test_a_detector_of_random_weights_is_named_and_not_believed():
    class Detector(torch.nn.Module):
        def detect_faces(self, image, threshold):
            assert threshold == 0.97  # the reference's
            return np.full((1, 15), np.nan, np.float32)

    with pytest.raises(WeightsError, match="RetinaFace gives boxes that are NaN"):
        face_crop.find_landmarks(Detector(), np.zeros((64, 64, 3), np.uint8))
