"""A face cut out and put back: where the window lies, what stays to the bit, and no seam."""

from __future__ import annotations

import numpy as np
import pytest
from micro_world.measuring.seams import step_across
from support.pictures.picture_files import gradient

from pulid_generate.detail.crops import FaceCrop, crop_of, cut_out, put_back
from pulid_generate.request.conditions.mask_edge import feathered
from pulid_generate.request.passes.detail import DetailSettings

PICTURE = (200, 120)
PLAIN = DetailSettings(dilate_erode=0, mask_blur=0, inpaint_padding=10)
SQUARE = (64, 64)


@pytest.mark.parametrize(
    ("box", "target", "window"),
    [
        ((80, 40, 20, 20), SQUARE, (70, 30, 110, 70)),
        ((80, 40, 20, 30), SQUARE, (65, 30, 115, 80)),  # wider, to be square
        ((80, 40, 20, 20), (64, 32), (50, 30, 130, 70)),
        ((0, 0, 20, 20), SQUARE, (0, 0, 30, 30)),  # clamped to the picture
        ((180, 100, 20, 20), SQUARE, (170, 90, 200, 120)),
        ((0, 0, 200, 120), SQUARE, (0, 0, 200, 120)),  # no room for a square
    ],
)
def test_the_window_has_a_margin_and_the_targets_shape(box, target, window):
    crop = crop_of(box, PICTURE, PLAIN, target)
    assert crop is not None
    assert crop.window == window
    x, y, width, height = box
    assert crop.face == (x, y, x + width, y + height)


@pytest.mark.parametrize(
    ("settings", "face"),
    [
        # a square of 4 pixels whose middle is the third: sd-cli's
        ({"dilate_erode": 4}, (79, 39, 102, 62)),
        ({"dilate_erode": -4}, (82, 42, 99, 59)),
        ({"dilate_erode": 0, "x_offset": 5, "y_offset": 7}, (85, 33, 105, 53)),
    ],
)
def test_the_mask_grows_and_moves(settings, face):
    crop = crop_of((80, 40, 20, 20), PICTURE, DetailSettings(**settings), SQUARE)
    assert crop is not None
    assert crop.face == face


def test_a_face_of_which_nothing_is_left_has_no_crop():
    assert crop_of((80, 40, 20, 20), PICTURE, DetailSettings(dilate_erode=-60), SQUARE) is None
    assert crop_of((80, 40, 20, 20), PICTURE, DetailSettings(x_offset=500), SQUARE) is None


def test_the_margin_holds_the_feather():
    settings = DetailSettings(dilate_erode=0, mask_blur=8, inpaint_padding=0)
    crop = crop_of((80, 40, 20, 20), PICTURE, settings, SQUARE)
    assert crop is not None
    assert crop.window == (60, 20, 120, 80)


def test_what_is_cut_out_is_the_window_and_its_mask():
    pixels = gradient(120, 200)
    crop = FaceCrop((70, 30, 110, 70), (80, 40, 100, 60))
    same, mask = cut_out(pixels, crop, (40, 40), 0)
    assert np.array_equal(same, pixels[30:70, 70:110])
    assert mask[10:30, 10:30].min() == 255
    assert mask.sum() == 255 * 20 * 20
    larger, mask = cut_out(pixels, crop, (80, 96), 0)
    assert larger.shape == (96, 80, 3)
    assert mask.sum() == 255 * 40 * 48


def test_the_mask_of_what_is_redrawn_lies_a_feather_further_in():
    pixels = gradient(120, 200)
    crop = FaceCrop((60, 20, 120, 80), (75, 35, 105, 65))
    _, mask = cut_out(pixels, crop, (120, 120), 3)
    # 3 pixels further in on every side, all of it twice as large
    inner = np.zeros((120, 120), np.uint8)
    inner[36:84, 36:84] = 255
    assert np.array_equal(mask, feathered(inner, 6))
    # at the mask's own edge a sixth is left, in the middle all
    assert 0.13 * 255 < mask[60, 30] < 0.19 * 255
    assert mask[60, 60] == 255
    # at least half of a face that its feather would hide
    tiny = FaceCrop((60, 20, 120, 80), (86, 46, 94, 54))
    _, mask = cut_out(pixels, tiny, (60, 60), 4)
    inner = np.zeros((60, 60), np.uint8)
    inner[28:32, 28:32] = 255
    assert np.array_equal(mask, feathered(inner, 4))
    # where the picture itself ends there is nothing to agree with
    corner = FaceCrop((0, 0, 60, 60), (0, 0, 40, 40))
    _, mask = cut_out(pixels, corner, (60, 60), 3)
    assert mask[:20, :20].min() == 255


def test_every_pixel_beyond_the_feather_stays_to_the_bit():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (120, 200, 3), np.uint8)
    settings = DetailSettings()
    crop = crop_of((80, 40, 30, 30), PICTURE, settings, SQUARE)
    drawn = rng.integers(0, 256, (64, 64, 3), np.uint8)
    result = put_back(pixels, drawn, crop, settings.mask_blur)
    changed = (result != pixels).any(-1)
    left, top, right, bottom = crop.face
    reach = 10  # 2.5 times 4
    inside = np.zeros_like(changed)
    inside[top - reach : bottom + reach, left - reach : right + reach] = True
    assert not changed[~inside].any()
    assert changed[top:bottom, left:right].mean() > 0.9
    # without a feather all of the face and nothing else
    hard = put_back(pixels, drawn, crop, 0)
    inside[:] = False
    inside[top:bottom, left:right] = True
    changed = (hard != pixels).any(-1)
    assert not changed[~inside].any()
    assert changed[inside].mean() > 0.99


def test_a_hard_edge_can_be_seen_and_a_feathered_one_cannot():
    """Another picture everywhere in the window, as far apart as a redrawn face: 40 of 255."""
    y, x = np.mgrid[:120, :200]
    smooth = np.stack([x, y, (x + y) / 2], 2).astype(np.uint8)
    settings = DetailSettings(inpaint_padding=24)
    crop = crop_of((80, 40, 30, 30), PICTURE, settings, SQUARE)
    cut, _ = cut_out(smooth, crop, crop.size, settings.mask_blur)
    hard = put_back(smooth, cut + 40, crop, 0)
    soft = put_back(smooth, cut + 40, crop, settings.mask_blur)
    assert step_across(hard, crop.face, 0) > 20
    # the mask ends where the feather does; at its edge the step is no larger than a pixel further
    edge = 10
    assert step_across(soft, crop.face, edge) <= step_across(soft, crop.face, edge + 1)
    assert max(step_across(soft, crop.face, place) for place in range(edge + 1)) < 5
