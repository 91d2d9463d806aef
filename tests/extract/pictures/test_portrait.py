"""Reading portraits: upright, flattened on white, whole or refused; the long side; the region by
hand.
"""

from __future__ import annotations

import contextlib
import struct
import sys
import types
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support.pictures.colour_profiles import DISPLAY_P3, matrix_profile
from support.pictures.picture_files import PICTURE, encode

from pulid_extract.pictures.portrait import (
    check_portrait,
    decode_portrait,
    limit_long_side,
    read_portrait,
)
from pulid_extract.pictures.regions import PAD_RGB, FaceBox, crop_box
from pulid_extract.shared.errors import InputError


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "JPEG"])
def test_formats(format_, tmp_path):
    path = tmp_path / "named.wrongly"
    path.write_bytes(
        encode(
            PICTURE,
            format_,
            **({"lossless": True} if format_ == "WEBP" else {"quality": 100, "subsampling": 0}),
        )
    )
    image = read_portrait(path)
    assert image.dtype == np.uint8
    assert image.shape == (48, 32, 3)
    np.testing.assert_allclose(image.astype(int), PICTURE, atol=0 if format_ != "JPEG" else 12)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed(orientation, format_):
    """Store the picture as a camera held that way would; reading must give it back upright."""
    transposition = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
                     7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    stored = Image.fromarray(PICTURE)
    if orientation in transposition:
        stored = stored.transpose(Image.Transpose[transposition[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode_portrait(encode(stored, format_, exif=exif, quality=100))
    assert image.shape == (48, 32, 3)
    np.testing.assert_allclose(image[4:12, 4:12].mean((0, 1)), (255, 0, 0), atol=10)
    np.testing.assert_allclose(image[4:12, 20:28].mean((0, 1)), (0, 255, 0), atol=10)
    np.testing.assert_allclose(image[36:44, 4:12].mean((0, 1)), (0, 0, 255), atol=10)


def test_damaged_exif_does_not_stop_the_picture():
    assert decode_portrait(encode(PICTURE, "JPEG", exif=b"Exif\0\0MM\0*garbage" * 3)).shape == (
        48,
        32,
        3,
    )


def with_alpha(alpha: int) -> Image.Image:
    layer = np.full((48, 32, 1), 255, np.uint8)
    layer[:24] = alpha
    return Image.fromarray(np.concatenate([PICTURE, layer], 2), "RGBA")


def test_alpha_is_flattened_on_white():
    for data in (encode(with_alpha(0)), encode(with_alpha(0), "WEBP", lossless=True)):
        image = decode_portrait(data)
        assert (image[:24] == 255).all()
        np.testing.assert_array_equal(image[24:], PICTURE[24:])
    half = decode_portrait(encode(with_alpha(128)))
    np.testing.assert_allclose(half[0, 0], (255, 127, 127), atol=1)


def test_grey_with_alpha_and_palette_with_transparency():
    assert (decode_portrait(encode(with_alpha(0).convert("LA")))[:24] == 255).all()
    palette = Image.fromarray(PICTURE).quantize(8)
    index = palette.getpixel((0, 0))
    image = decode_portrait(encode(palette, transparency=index))
    assert (image[:16, :16] == 255).all()
    np.testing.assert_allclose(image[40, 4], (0, 0, 255), atol=8)
    # one colour named transparent, in an RGB file
    named = decode_portrait(encode(PICTURE, transparency=(255, 0, 0)))
    assert (named[:16, :16] == 255).all()
    np.testing.assert_array_equal(named[16:], PICTURE[16:])


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 48 * 32).reshape(48, 32).astype(np.uint16)
    image = decode_portrait(encode(Image.fromarray(ramp)))
    np.testing.assert_allclose(image[..., 0], ramp / 257, atol=0.5)
    assert (image[..., 0] == image[..., 2]).all()


def test_grey_one_bit_and_cmyk():
    grey = decode_portrait(encode(Image.fromarray(PICTURE).convert("L")))
    assert grey.shape == (48, 32, 3)
    assert set(np.unique(decode_portrait(encode(Image.fromarray(PICTURE).convert("1"))))) <= {
        0,
        255,
    }
    cmyk = decode_portrait(encode(Image.fromarray(PICTURE).convert("CMYK"), "JPEG", quality=100))
    np.testing.assert_allclose(cmyk[4:12, 4:12].mean((0, 1)), (255, 0, 0), atol=12)


def test_a_two_view_jpeg_of_a_phone_is_no_animation():
    data = encode(
        Image.fromarray(PICTURE), "MPO", save_all=True, append_images=[Image.new("RGB", (32, 48))]
    )
    assert decode_portrait(data)[4, 4, 0] > 200


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_animations_are_refused(format_):
    data = encode(
        Image.fromarray(PICTURE),
        format_,
        save_all=True,
        append_images=[Image.new("RGB", (32, 48), "red")],
    )
    with pytest.raises(InputError, match="animation of 2 frames"):
        decode_portrait(data)


def claimed_png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its data does not back."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(12000, 12000), (60000, 60000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_before_decoding(size):
    with pytest.raises(InputError, match="million pixels"):
        decode_portrait(claimed_png(*size))


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_truncated_pictures_are_refused(format_, part):
    data = encode(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), format_)
    with pytest.raises(InputError, match=r"truncated|not a readable"):
        decode_portrait(data[: int(len(data) * part)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\xff\xd8\xff", "not a readable"),
        (b"not a picture", "not a readable"),
        (b"\0\0\0\x20ftypheic" + bytes(100), "HEIC"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (encode(PICTURE, "GIF"), "GIF"),
        (encode(PICTURE, "BMP"), "not a readable"),
        (encode(np.zeros((4, 40, 3), np.uint8)), "40x4 pixels"),
    ],
)
def test_other_files_are_refused(data, message):
    with pytest.raises(InputError, match=message) as caught:
        decode_portrait(data, "me.jpg")
    assert str(caught.value).startswith("me.jpg: ")
    assert "\n" not in str(caught.value)


def test_random_damage_raises_nothing_else():
    data = encode(PICTURE, "JPEG")
    random = np.random.default_rng(1)
    for _ in range(200):
        bytes_ = bytearray(data)
        for place in random.integers(0, len(data), 5):
            bytes_[place] = random.integers(256)
        with contextlib.suppress(InputError):
            assert decode_portrait(bytes(bytes_)).dtype == np.uint8


def test_missing_and_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_portrait(tmp_path / "none.jpg")
    with pytest.raises(InputError, match="is a folder"):
        read_portrait(tmp_path)


# ---------------------------------------------------------------------------------------- long side


def test_the_long_side_follows_the_references_rule():
    import cv2

    exact = np.random.default_rng(0).integers(0, 255, (700, 1024, 3), np.uint8)
    assert limit_long_side(exact) is exact
    wide = np.random.default_rng(1).integers(0, 255, (777, 1531, 3), np.uint8)
    k = 1024 / 1531
    want = cv2.resize(wide, (int(1531 * k), int(777 * k)), interpolation=cv2.INTER_LANCZOS4)
    np.testing.assert_array_equal(limit_long_side(wide), want)
    assert not np.array_equal(
        want, cv2.resize(wide, want.shape[1::-1], interpolation=cv2.INTER_AREA)
    )


def test_a_ribbon_is_refused():
    with pytest.raises(InputError, match="too narrow"):
        limit_long_side(np.zeros((20, 5000, 3), np.uint8))


# ------------------------------------------------------------------------------------------ regions

NOISE = np.random.default_rng(2).integers(0, 255, (600, 800, 3), np.uint8)


def test_a_square_of_512_is_copied():
    np.testing.assert_array_equal(
        crop_box(NOISE, FaceBox(10, 20, 512, 512), (800, 600)), NOISE[20:532, 10:522]
    )


def test_the_short_side_grows_around_the_centre_and_stays_inside():
    np.testing.assert_array_equal(
        crop_box(NOISE, FaceBox(250, 20, 100, 512), (800, 600)), NOISE[20:532, 44:556]
    )
    np.testing.assert_array_equal(
        crop_box(NOISE, FaceBox(790, 50, 10, 512), (800, 600)), NOISE[50:562, 288:800]
    )


def test_boxes_scale_with_the_picture():
    """The box counts in the portrait; the crop is cut from the limited picture."""
    np.testing.assert_array_equal(
        crop_box(NOISE, FaceBox(20, 40, 1024, 1024), (1600, 1200)), NOISE[20:532, 10:522]
    )


def test_a_square_larger_than_the_picture_is_padded():
    tall = NOISE[:, :256]
    crop = crop_box(np.ascontiguousarray(tall[:512]), FaceBox(0, 0, 256, 512), (256, 512))
    assert (crop[:, :128] == PAD_RGB).all()
    assert (crop[:, 384:] == PAD_RGB).all()
    np.testing.assert_array_equal(crop[:, 128:384], tall[:512])


def test_other_sizes_are_resized_to_512():
    assert crop_box(NOISE, FaceBox(0, 0, 40, 50), (800, 600)).shape == (512, 512, 3)
    assert crop_box(NOISE, FaceBox(0, 0, 600, 600), (800, 600)).shape == (512, 512, 3)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (FaceBox(0, 0, 0, 10), "no area"),
        (FaceBox(0, 0, 10, -3), "no area"),
        (FaceBox(-1, 0, 10, 10), "outside the portrait, which is 800x600"),
        (FaceBox(0, 591, 10, 10), "outside"),
        (FaceBox(900, 0, 10, 10), "outside"),
        (FaceBox(5, 5, 1, 1), "too small"),
    ],
)
def test_boxes_that_cannot_be_are_refused(box, message):
    with pytest.raises(InputError, match=message):
        crop_box(NOISE, box, (800, 600))


# ---------------------------------------------------------------------------- pictures as they come


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "tEXt", "iCCP"])
def test_a_png_with_megabytes_beside_its_pixels_is_read(kind):
    """Pillow refuses the whole picture for a text or a profile that unpacks to more than 1 MiB."""
    long = "workflow " * 300_000
    options = {}
    if kind == "iCCP":
        options["icc_profile"] = matrix_profile(DISPLAY_P3, padding=2 << 20)
    else:
        texts = PngInfo()
        if kind == "iTXt":
            texts.add_itxt("workflow", long, zip=True)
        else:
            texts.add_text("workflow", long, zip=kind == "zTXt")
        options["pnginfo"] = texts
    data = encode(PICTURE, **options)
    assert kind.encode() in data
    check_portrait(data)
    assert np.array_equal(decode_portrait(data), PICTURE)
    # a few bytes that claim to be a gigabyte
    bomb = zlib.compress(bytes(64 << 20), 9)
    chunk = struct.pack(">I", len(bomb) + 3) + b"zTXta\0\0" + bomb + bytes(4)
    plain = encode(PICTURE)
    assert np.array_equal(decode_portrait(plain[:33] + chunk + plain[33:]), PICTURE)


def test_the_orientation_in_a_pngs_xmp_is_still_obeyed():
    texts = PngInfo()
    xmp = '<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/>'
    texts.add_itxt("XML:com.adobe.xmp", xmp)
    assert np.array_equal(decode_portrait(encode(PICTURE, pnginfo=texts)), PICTURE[::-1, ::-1])


def test_a_portraits_profile_is_not_applied_as_in_the_reference():
    data = encode(PICTURE, icc_profile=matrix_profile(DISPLAY_P3))
    assert np.array_equal(decode_portrait(data), PICTURE)


def test_a_jpeg_without_its_last_bytes_gets_a_hint():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encode(noise, "JPEG")
    for cut in (3, 40, 900):
        with pytest.raises(InputError, match=r"me\.jpg: lacks its last bytes .* viewers show it"):
            decode_portrait(data[:-cut], "me.jpg")


def test_of_a_heic_with_several_stills_the_primary_one_is_read(monkeypatch):
    """pillow-heif, which is no dependency, opens the primary one and counts all."""

    class Heif(types.ModuleType):
        @staticmethod
        def register_heif_opener():
            def opener(file, name):
                image = Image.fromarray(PICTURE)
                image.format, image.n_frames = "HEIF", 3
                return image

            Image.register_open("HEIF", opener, lambda start: start[4:12] == b"ftypheic")

    data = b"\0\0\0\x20ftypheic" + bytes(100)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match=r"is HEIC; run: pip install pillow-heif, or save"):
        decode_portrait(data)
    monkeypatch.setitem(sys.modules, "pillow_heif", Heif("pillow_heif"))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    assert np.array_equal(decode_portrait(data), PICTURE)
