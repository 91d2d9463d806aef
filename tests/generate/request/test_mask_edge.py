"""The edge of a mask: grown, shrunk, feathered; hard where nothing is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from pulid_generate.errors import RequestError
from pulid_generate.request.conditions.mask_edge import MaskEdge, feathered, grown
from pulid_generate.request.job import StartPicture


def box(top: int, left: int, bottom: int, right: int, size: int = 32) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


def test_a_mask_grows_and_shrinks_by_pixels_on_every_side():
    mask = box(10, 12, 20, 18)
    assert np.array_equal(grown(mask, 3), box(7, 9, 23, 21))
    assert np.array_equal(grown(mask, -2), box(12, 14, 18, 16))
    assert np.array_equal(grown(mask, 0), mask)
    assert np.array_equal(grown(mask, 40), box(0, 0, 32, 32))
    assert not grown(mask, -3).any()
    # what the picture's border cuts off is not taken for black
    assert np.array_equal(grown(box(0, 0, 10, 10), -2), box(0, 0, 8, 8))
    # grey stays grey
    assert set(np.unique(grown(mask // 2, 2))) == {0, 127}


def test_a_feather_is_a_gaussian_with_an_end():
    mask, sigma = box(0, 0, 32, 16), 2.0
    soft = feathered(mask, sigma)
    assert np.array_equal(soft, np.broadcast_to(soft[0], soft.shape))  # the border goes on
    assert (np.diff(soft[0].astype(int)) <= 0).all()
    assert soft[0, 15] + soft[0, 16] == pytest.approx(255, abs=1)  # half and half at the edge
    assert (soft[:, :11] == 255).all()  # 2.5 sigma inside
    assert not soft[:, 21:].any()  # and outside: those pixels stay, to the bit
    assert feathered(mask, 0) is mask


def test_a_starting_picture_has_a_hard_edge_unless_it_is_asked_otherwise():
    pixels, mask = np.zeros((32, 32, 3), np.uint8), box(8, 8, 24, 24)
    assert np.array_equal(StartPicture(pixels, mask).feather, mask)
    assert np.array_equal(StartPicture(pixels, mask, 3.0).feather, feathered(mask, 3.0))
    assert StartPicture(pixels).feather is None


@pytest.mark.parametrize(
    ("edge", "words"),
    [
        ({"blur": -1}, "mask-blur -1: expected pixels from 0 to 512"),
        ({"blur": float("nan")}, "mask-blur nan"),
        ({"blur": 1e9}, "mask-blur"),
        ({"grow": 513}, "mask-grow 513: expected pixels from -512 to 512"),
    ],
)
def test_what_is_no_edge_is_refused(edge, words):
    with pytest.raises(RequestError, match=words):
        MaskEdge(**edge)
