"""Regions: from a box or a mask in pixels to one weight per image token."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pulid_generate.errors import InputError, RequestError
from pulid_generate.files.layouts import TOKEN_PIXELS
from pulid_generate.request.people.regions import box_region, mask_region, share_overlaps
from pulid_generate.sampling.packing import token_count

WIDTH, HEIGHT = 160, 96  # 10 columns, 6 rows of tokens


def grid(region):
    assert region.shape == (token_count(WIDTH, HEIGHT),)
    assert region.dtype == np.float32
    assert (region >= 0).all()
    assert (region <= 1).all()
    return region.reshape(HEIGHT // TOKEN_PIXELS, WIDTH // TOKEN_PIXELS)


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def half_white():
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[:, : WIDTH // 2] = 255
    return pixels


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((0, 0, 80, 96), slice(0, 6), slice(0, 5)),  # on the grid: not one token more
        ((16, 32, 48, 32), slice(2, 4), slice(1, 4)),
        ((17, 33, 2, 2), slice(2, 3), slice(1, 2)),  # within one token
        ((15, 31, 2, 2), slice(1, 3), slice(0, 2)),  # one pixel of each of four tokens
        ((-50, -50, 66, 82), slice(0, 2), slice(0, 1)),  # cut off at the picture's border
        ((144, 80, 900, 900), slice(5, 6), slice(9, 10)),
    ],
)
def test_zero_begins_exactly_where_the_box_does_not_touch(box, rows, columns):
    ours = grid(box_region(box, WIDTH, HEIGHT))
    touched = np.zeros(ours.shape, bool)
    touched[rows, columns] = True
    assert np.array_equal(ours > 0, touched)


def test_the_edge_is_soft_inside_and_hard_at_the_pictures_border():
    ours = grid(box_region((0, 0, 80, 96), WIDTH, HEIGHT))
    assert np.allclose(ours, np.array([1, 1, 1, 1, 2 / 3, 0, 0, 0, 0, 0]))
    corner = grid(box_region((0, 0, 80, 48), WIDTH, HEIGHT))
    assert corner[2, 4] == pytest.approx(4 / 9)
    assert corner[0, 0] == 1


def test_the_whole_picture_is_one_everywhere():
    assert np.array_equal(box_region((0, 0, WIDTH, HEIGHT), WIDTH, HEIGHT), np.ones(60, np.float32))
    assert np.array_equal(box_region((-5, -5, 999, 999), WIDTH, HEIGHT), np.ones(60, np.float32))


def test_coverage_is_area_and_bounds_the_weight():
    ours = grid(box_region((0, 0, 72, 96), WIDTH, HEIGHT))  # half of column 4
    assert np.allclose(ours[:, 4], 0.5)
    assert ours[0, 3] == pytest.approx(2.5 / 3)
    quarter = grid(box_region((40, 40, 8, 8), WIDTH, HEIGHT))
    # a small region keeps what it covers, the soft edge does not thin it out
    assert quarter[2, 2] == pytest.approx(0.25)
    assert np.count_nonzero(quarter) == 1


def test_a_box_and_its_mask_are_the_same(tmp_path):
    mask = mask_region(save(tmp_path / "m.png", half_white()), WIDTH, HEIGHT)
    assert np.allclose(mask, box_region((0, 0, 80, 96), WIDTH, HEIGHT))


@pytest.mark.parametrize("kind", ["L", "1", "P", "RGB", "RGBA", "LA", "16 bit"])
def test_every_kind_of_png_reads_the_same(tmp_path, kind):
    pixels = half_white()
    image = (
        Image.fromarray(pixels.astype(np.uint16) * 257)
        if kind == "16 bit"
        else Image.fromarray(pixels).convert(kind)
    )
    image.save(tmp_path / "m.png")
    assert np.allclose(
        mask_region(tmp_path / "m.png", WIDTH, HEIGHT),
        box_region((0, 0, 80, 96), WIDTH, HEIGHT),
        atol=1e-6,
    )


def test_sixteen_bits_are_not_clipped(tmp_path):
    save(tmp_path / "grey.png", np.full((HEIGHT, WIDTH), 16384, np.uint16))
    assert np.allclose(mask_region(tmp_path / "grey.png", WIDTH, HEIGHT), 0.25, atol=1e-4)


def test_transparent_is_black(tmp_path):
    pixels = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    pixels[:, WIDTH // 2 :, 3] = 0
    save(tmp_path / "m.png", pixels)
    assert np.allclose(
        mask_region(tmp_path / "m.png", WIDTH, HEIGHT), box_region((0, 0, 80, 96), WIDTH, HEIGHT)
    )


def test_two_boxes_side_by_side_share_no_token():
    left, right = share_overlaps(
        [box_region((0, 0, 80, 96), WIDTH, HEIGHT), box_region((80, 0, 80, 96), WIDTH, HEIGHT)]
    )
    assert not (left * right).any()
    # nothing to share, nothing changed
    assert np.array_equal(left, box_region((0, 0, 80, 96), WIDTH, HEIGHT))


def test_overlaps_are_shared_and_the_rest_is_left_alone():
    whole, part = (
        box_region(box, WIDTH, HEIGHT) for box in ((0, 0, WIDTH, HEIGHT), (32, 32, 48, 48))
    )
    ours = share_overlaps([whole, part])
    total = np.sum(ours, axis=0)
    assert (total <= 1 + 1e-6).all()
    assert np.array_equal(ours[0][part == 0], whole[part == 0])
    assert ours[0][part == 1] == pytest.approx(0.5)
    # in proportion
    assert np.allclose(ours[0] / np.maximum(ours[1], 1e-9), whole / np.maximum(part, 1e-9))


@pytest.mark.parametrize(
    "box", [(160, 0, 10, 10), (0, 96, 10, 10), (-20, 0, 20, 96), (0, -9, 5, 9)]
)
def test_a_box_that_covers_nothing_is_refused(box):
    with pytest.raises(
        RequestError,
        match=r"identity a: box .* covers nothing of the picture, which has 160x96 pixels",
    ):
        box_region(box, WIDTH, HEIGHT, "identity a: box")


def test_masks_that_cannot_be_used_are_refused_by_name(tmp_path):
    wrong = {
        "none.png": (None, "no such file"),
        "size.png": (np.zeros((96, 96), np.uint8), "has 96x96 pixels, the picture 160x96"),
        "black.png": (np.zeros((HEIGHT, WIDTH), np.uint8), "black all over"),
        "jpeg.jpg": (half_white(), "is JPEG, expected PNG"),
    }
    for name, (pixels, message) in wrong.items():
        if pixels is not None:
            save(tmp_path / name, pixels)
        with pytest.raises(InputError, match=message) as caught:
            mask_region(tmp_path / name, WIDTH, HEIGHT)
        assert name in str(caught.value)


@pytest.mark.parametrize("damage", [b"", b"<html>", b"\x89PNG\r\n\x1a\n", "cut", "folder"])
def test_unreadable_masks_are_one_line(tmp_path, damage):
    path = save(tmp_path / "m.png", half_white())
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH), np.uint8)
    if damage == "cut":
        save(path, noise)
        path.write_bytes(path.read_bytes()[:3000])
    elif damage == "folder":
        path = tmp_path
    else:
        path.write_bytes(damage)
    with pytest.raises(InputError, match="cannot be read as a PNG"):
        mask_region(path, WIDTH, HEIGHT)
