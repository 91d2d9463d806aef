"""The picture to start from and its mask: whole, upright, RGB, of the drawn size, or refused."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from support.pictures.colour_profiles import DISPLAY_P3, in_srgb, matrix_profile
from support.pictures.picture_files import encode, gradient

from pulid_generate.errors import InputError
from pulid_generate.request.conditions.start_picture import (
    init_image_size,
    paste,
    read_init_image,
    read_mask,
    read_source,
)

# ------------------------------------------------------------------------ the picture to start from


def test_a_picture_of_the_drawn_size_is_taken_as_it_is(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(gradient()))
    for source in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        encode(gradient()),
        encode(gradient(), "WEBP", lossless=True),
    ):
        assert np.array_equal(read_init_image(source, 64, 48), gradient())
    assert init_image_size(tmp_path / "a.png") == (64, 48)
    assert init_image_size(encode(gradient(50, 79))) == (64, 48)
    assert init_image_size(encode(gradient(5, 79))) == (64, 16)


def test_another_size_is_cropped_around_the_centre_then_resized():
    stripes = np.zeros((64, 128, 3), np.uint8)
    stripes[:, 32:96] = 200  # what a square crop of the centre sees
    assert (read_init_image(encode(stripes), 32, 32) == 200).all()
    assert (read_init_image(encode(stripes.transpose(1, 0, 2).copy()), 32, 32) == 200).all()
    squeezed = read_init_image(encode(stripes), 64, 32)  # same shape: nothing is cropped
    assert squeezed[:, :12].max() < 20
    assert squeezed[:, 24:40].min() > 180
    assert read_init_image(encode(gradient(16, 16)), 64, 64).shape == (64, 64, 3)


def test_exif_turns_and_transparent_is_white():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned = encode(gradient(48, 64), exif=exif.tobytes())
    assert np.array_equal(read_init_image(turned, 48, 64), np.rot90(gradient(48, 64), -1))
    assert init_image_size(turned) == (48, 64)
    rgba = np.dstack([np.full((16, 16, 3), 40, np.uint8), np.zeros((16, 16), np.uint8)])
    rgba[:8, :, 3] = 255
    pixels = read_init_image(encode(rgba), 16, 16)
    assert (pixels[:8] == 40).all()
    assert (pixels[8:] == 255).all()


def test_grey_palette_and_16_bit_pictures_are_rgb():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for image in (
        Image.fromarray(grey),
        Image.fromarray(grey.astype(np.uint16) * 257),
        Image.fromarray(grey).convert("P"),
        Image.fromarray(np.repeat(grey[..., None], 3, 2)),
    ):
        assert np.array_equal(
            read_init_image(encode(image), 16, 16), np.repeat(grey[..., None], 3, 2)
        ), image.mode


def bad_pictures():
    huge = bytearray(encode(gradient(16, 16)))
    # width and height in the header, then its checksum
    huge[16:24] = (60000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    frames = [Image.fromarray(gradient(16, 16)), Image.fromarray(255 - gradient(16, 16))]
    return {
        "empty": (b"", "is empty"),
        "html": (
            b"<!DOCTYPE html><html>404</html>",
            "is not a readable JPEG, PNG, WebP, BMP or TIFF picture",
        ),
        "truncated": (encode(gradient(160, 160), "JPEG")[:-900], "lacks its last bytes"),
        "animation": (
            encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
            "animation of 2 frames",
        ),
        "huge": (bytes(huge), "claims more than 128 million pixels"),
    }


@pytest.mark.parametrize("case", ["empty", "html", "truncated", "animation", "huge"])
@pytest.mark.parametrize("read", [read_init_image, read_mask])
def test_what_is_no_picture_is_refused(case, read):
    data, words = bad_pictures()[case]
    with pytest.raises(InputError, match=words):
        read(data, 16, 16)


def test_a_huge_picture_is_refused_before_it_is_decoded(monkeypatch):
    data = encode(gradient(16, 16))
    monkeypatch.setattr("pulid_extract.shared.picture_file.MAX_PIXELS", 100)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(InputError, match="16x16, more than"):
        read_init_image(data, 16, 16)


def test_files_that_cannot_be_read(tmp_path):
    for path, words in (
        (tmp_path / "no.png", "no such file; --init-img"),
        (tmp_path, "is a folder"),
        ("a\0b", "cannot be read"),
    ):
        with pytest.raises(InputError, match=words):
            read_init_image(path, 16, 16)


def test_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(encode(gradient()))))
    assert np.array_equal(read_init_image("-", 64, 48), gradient())


# ----------------------------------------------------------------------------------------- the mask


def test_a_mask_is_one_channel():
    mask = np.zeros((48, 64), np.uint8)
    mask[:8], mask[8:16] = 255, 100
    # white paint on nothing, as drawing programs save it
    rgba = np.dstack([np.full((48, 64, 3), 255, np.uint8), mask])
    for data in (encode(mask), encode(np.repeat(mask[..., None], 3, 2)), encode(rgba)):
        assert np.array_equal(read_mask(data, 64, 48), mask)


def test_a_mask_goes_with_its_picture():
    large, mask = encode(gradient(96, 160)), np.zeros((96, 160), np.uint8)
    mask[:, 80:] = 255
    ours = read_mask(encode(mask), 64, 48, init_image=large)
    assert ours.shape == (48, 64)
    assert ours[:, :28].max() == 0
    assert ours[:, 36:].min() == 255


def test_masks_that_cannot_be_used():
    with pytest.raises(InputError, match="32x32 pixels; expected 64x48;"):
        read_mask(encode(np.full((32, 32), 255, np.uint8)), 64, 48)
    with pytest.raises(InputError, match="32x32 pixels; expected 64x48, or 160x96 as the picture"):
        read_mask(
            encode(np.full((32, 32), 255, np.uint8)), 64, 48, init_image=encode(gradient(96, 160))
        )
    with pytest.raises(InputError, match="nothing to redraw"):
        read_mask(encode(np.zeros((48, 64), np.uint8)), 64, 48)


def test_paste_leaves_black_alone_and_takes_white_whole():
    original, drawn = gradient(), 255 - gradient()
    mask = np.zeros((48, 64), np.uint8)
    mask[:16], mask[16:32] = 255, 128
    ours = paste(drawn, original, mask)
    assert ours.dtype == np.uint8
    assert np.array_equal(ours[:16], drawn[:16])
    assert np.array_equal(ours[32:], original[32:])
    # half of a picture and half of its negative
    assert np.abs(ours[16:32].astype(int) - 127.5).max() <= 1.5


# ------------------------------------------------------------------------------------------ colours


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "RGBA", "P", "L"])
def test_a_wide_photograph_becomes_srgb(kind):
    """Each colour as the textbook has it: red of Display P3 is beyond sRGB's, grey is grey."""
    colours = np.array([[200, 60, 60], [60, 190, 70], [128, 128, 128], [250, 10, 20]], np.uint8)
    if kind == "L":
        colours = colours[2:3].repeat(4, 0)
    wanted = in_srgb(DISPLAY_P3, colours)
    assert (abs(wanted.astype(int) - colours) > 8).any() == (kind != "L")
    pixels = np.repeat(np.repeat(colours.reshape(2, 2, 3), 16, 0), 16, 1)
    image = Image.fromarray(pixels)
    options = {"icc_profile": matrix_profile(DISPLAY_P3)}
    if kind == "JPEG":
        options |= {"quality": 100, "subsampling": 0}
    elif kind == "P":
        image = image.quantize(4)
    elif kind != "PNG":
        image = image.convert(kind)
    data = encode(image, "JPEG" if kind == "JPEG" else "PNG", **options)
    got = read_init_image(data, 32, 32)[8::16, 8::16].reshape(4, 3)
    if kind == "L":
        # an RGB profile says nothing of a grey picture
        assert np.array_equal(got, colours)
    else:
        assert abs(got.astype(int) - wanted).max() <= 2


def test_srgb_and_damaged_profiles_change_nothing():
    for profile in (
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        b"no profile at all",
        matrix_profile(DISPLAY_P3)[:200],
    ):
        data = encode(gradient(), icc_profile=profile)
        assert np.array_equal(read_init_image(data, 64, 48), gradient())


def test_a_mask_is_numbers_and_no_colours():
    mask = np.full((48, 64), 128, np.uint8)
    data = encode(Image.fromarray(mask).convert("RGB"), icc_profile=matrix_profile(DISPLAY_P3))
    assert np.array_equal(read_mask(data, 64, 48), mask)


def test_errors_name_the_file(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(gradient())[:-60])
    source = read_source(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: cannot be decoded"):
        read_init_image(source, 64, 48)
