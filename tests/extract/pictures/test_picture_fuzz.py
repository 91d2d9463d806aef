"""Any bytes, damaged pictures, any header, any box: a picture or one line."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pictures.bad_pictures import BAD, MODES, chunk, huge_png
from support.pictures.picture_files import PICTURE, encode

from pulid_extract import FaceBox
from pulid_extract.faces import crop as face_crop
from pulid_extract.faces.choice import FaceChoice
from pulid_extract.pictures.portrait import decode_portrait
from pulid_extract.shared.errors import InputError
from pulid_extract.shared.picture_file import MAX_PIXELS

SEEDS = [
    *MODES.values(),
    *(data for data, _ in BAD.values()),
    encode(PICTURE, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + bytes(20)),
]


def decodes_or_refuses(data: bytes) -> None:
    """A picture, or InputError of one line; nothing else is raised."""
    with contextlib.suppress(InputError):
        image = decode_portrait(data, "x")
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        assert min(image.shape[:2]) >= 16


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_picture_or_one_line(data):
    decodes_or_refuses(data)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([seed for seed in SEEDS if len(seed) < 20_000]),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
    st.binary(max_size=20),
)
def test_damaged_pictures_are_pictures_or_one_line(seed, changes, cut, tail):
    """Bytes changed, the end cut off, something else behind it."""
    data = bytearray(seed)
    for place, value in changes:
        if data:
            data[place % len(data)] = value
    decodes_or_refuses(bytes(data[: int(len(data) * cut)]) + tail)
    decodes_or_refuses(bytes(data))


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255)
)
def test_any_png_header_is_refused_or_read(width, height, depth, colour):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(5000)))
        + chunk(b"IEND", b"")
    )
    with contextlib.suppress(InputError):
        assert decode_portrait(data).size <= 3 * MAX_PIXELS


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(*[st.integers(-50, 700)] * 4),
    st.sampled_from([(640, 640), (100, 1000), (2000, 40)]),
)
def test_any_box_is_cut_or_refused(values, size):
    from pulid_extract.pictures.portrait import Photo
    from pulid_extract.pictures.regions import crop_box

    image = np.zeros((size[1], size[0], 3), np.uint8)
    with contextlib.suppress(InputError):
        assert crop_box(Photo.of(image).bgr, FaceBox(*values), size).shape == (512, 512, 3)


def test_the_seeds_of_the_fuzz_hold_both_kinds():
    readable = 0
    for seed in SEEDS:
        with contextlib.suppress(InputError):
            decode_portrait(seed)
            readable += 1
    assert 5 < readable < len(SEEDS)
    assert replace(FaceChoice()) == FaceChoice()
    assert face_crop.CROP_SIDE == 512
    assert io.BytesIO(huge_png()).read(4) == b"\x89PNG"
