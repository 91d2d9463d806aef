"""Pictures in and out: the picture to start from, its mask, the autoencoder both ways and in tiles,
and the formats that are written.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pulid_extract.shared.model_files import read_header
from pulid_generate.errors import CheckpointError, InputError, OutputError, RequestError
from pulid_generate.models.autoencoder import decode, encode, load_vae
from pulid_generate.models.tiles import tile_starts, tiled
from pulid_generate.pictures.picture import (
    SUFFIXES,
    Picture,
    encode_pixels,
    format_of,
    read_parameters,
)
from pulid_generate.request.generation import GenerationRequest
from pulid_generate.request.job import Job
from pulid_generate.request.start_picture import init_image_size, paste, read_init_image, read_mask
from pulid_generate.request.tiling import Tiling
from pulid_generate.sampling.noise import make_noise


def picture(height=48, width=64) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack(
        [x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) % 256], axis=2
    ).astype(np.uint8)


def file_of(pixels, format="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(
        buffer, format, **options
    )
    return buffer.getvalue()


# ------------------------------------------------------------------------ the picture to start from


def test_a_picture_of_the_drawn_size_is_taken_as_it_is(tmp_path):
    (tmp_path / "a.png").write_bytes(file_of(picture()))
    for source in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        file_of(picture()),
        file_of(picture(), "WEBP", lossless=True),
    ):
        assert np.array_equal(read_init_image(source, 64, 48), picture())
    assert init_image_size(tmp_path / "a.png") == (64, 48)
    assert init_image_size(file_of(picture(50, 79))) == (64, 48)
    assert init_image_size(file_of(picture(5, 79))) == (64, 16)


def test_another_size_is_cropped_around_the_centre_then_resized():
    stripes = np.zeros((64, 128, 3), np.uint8)
    stripes[:, 32:96] = 200  # what a square crop of the centre sees
    assert (read_init_image(file_of(stripes), 32, 32) == 200).all()
    assert (read_init_image(file_of(stripes.transpose(1, 0, 2).copy()), 32, 32) == 200).all()
    squeezed = read_init_image(file_of(stripes), 64, 32)  # same shape: nothing is cropped
    assert squeezed[:, :12].max() < 20
    assert squeezed[:, 24:40].min() > 180
    assert read_init_image(file_of(picture(16, 16)), 64, 64).shape == (64, 64, 3)


def test_exif_turns_and_transparent_is_white():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned = file_of(picture(48, 64), exif=exif.tobytes())
    assert np.array_equal(read_init_image(turned, 48, 64), np.rot90(picture(48, 64), -1))
    assert init_image_size(turned) == (48, 64)
    rgba = np.dstack([np.full((16, 16, 3), 40, np.uint8), np.zeros((16, 16), np.uint8)])
    rgba[:8, :, 3] = 255
    pixels = read_init_image(file_of(rgba), 16, 16)
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
            read_init_image(file_of(image), 16, 16), np.repeat(grey[..., None], 3, 2)
        ), image.mode


def bad_pictures():
    huge = bytearray(file_of(picture(16, 16)))
    # width and height in the header, then its checksum
    huge[16:24] = (60000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    frames = [Image.fromarray(picture(16, 16)), Image.fromarray(255 - picture(16, 16))]
    return {
        "empty": (b"", "is empty"),
        "html": (
            b"<!DOCTYPE html><html>404</html>",
            "is not a readable JPEG, PNG, WebP, BMP or TIFF picture",
        ),
        "truncated": (file_of(picture(160, 160), "JPEG")[:-900], "truncated or damaged"),
        "animation": (
            file_of(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
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
    data = file_of(picture(16, 16))
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
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(file_of(picture()))))
    assert np.array_equal(read_init_image("-", 64, 48), picture())


# ----------------------------------------------------------------------------------------- the mask


def test_a_mask_is_one_channel():
    mask = np.zeros((48, 64), np.uint8)
    mask[:8], mask[8:16] = 255, 100
    # white paint on nothing, as drawing programs save it
    rgba = np.dstack([np.full((48, 64, 3), 255, np.uint8), mask])
    for data in (file_of(mask), file_of(np.repeat(mask[..., None], 3, 2)), file_of(rgba)):
        assert np.array_equal(read_mask(data, 64, 48), mask)


def test_a_mask_goes_with_its_picture():
    large, mask = file_of(picture(96, 160)), np.zeros((96, 160), np.uint8)
    mask[:, 80:] = 255
    ours = read_mask(file_of(mask), 64, 48, init_image=large)
    assert ours.shape == (48, 64)
    assert ours[:, :28].max() == 0
    assert ours[:, 36:].min() == 255


def test_masks_that_cannot_be_used():
    with pytest.raises(InputError, match="32x32 pixels; expected 64x48;"):
        read_mask(file_of(np.full((32, 32), 255, np.uint8)), 64, 48)
    with pytest.raises(InputError, match="32x32 pixels; expected 64x48, or 160x96 as the picture"):
        read_mask(
            file_of(np.full((32, 32), 255, np.uint8)), 64, 48, init_image=file_of(picture(96, 160))
        )
    with pytest.raises(InputError, match="nothing to redraw"):
        read_mask(file_of(np.zeros((48, 64), np.uint8)), 64, 48)


def test_paste_leaves_black_alone_and_takes_white_whole():
    original, drawn = picture(), 255 - picture()
    mask = np.zeros((48, 64), np.uint8)
    mask[:16], mask[16:32] = 255, 128
    ours = paste(drawn, original, mask)
    assert ours.dtype == np.uint8
    assert np.array_equal(ours[:16], drawn[:16])
    assert np.array_equal(ours[32:], original[32:])
    # half of a picture and half of its negative
    assert np.abs(ours[16:32].astype(int) - 127.5).max() <= 1.5


# ---------------------------------------------------------------------------------- the autoencoder


@pytest.fixture(scope="module")
def vae(micro):
    return load_vae(read_header(micro / "ae.safetensors"), torch.float32)


def test_encode_is_diffusers_scaled_and_shifted(vae):
    latents = encode(vae, picture())
    assert (latents.shape, latents.dtype) == ((1, 16, 6, 8), torch.float32)
    pixels = torch.from_numpy(picture()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        posterior = vae.encode(pixels).latent_dist
    assert torch.allclose(latents, (posterior.mean - 0.1159) * 0.3611, atol=1e-6)
    noise = make_noise(3, 64, 48, "cuda")
    sample = encode(vae, picture(), noise=noise)
    assert torch.allclose(
        sample, (posterior.mean + posterior.std * noise - 0.1159) * 0.3611, atol=1e-6
    )
    assert not torch.allclose(sample, latents, atol=1e-3)


def test_decode_undoes_the_scale_of_encode():
    """Through an autoencoder that keeps what it is given, both ways together give the picture
    back.
    """

    class Keeps:
        device, dtype = torch.device("cpu"), torch.float32
        config = type("config", (), {"scaling_factor": 0.3611, "shift_factor": 0.1159})

        def encode(self, x, return_dict):
            cells = x[:, :, ::8, ::8].repeat(1, 6, 1, 1)[:, :16]
            return (
                type(
                    "posterior",
                    (),
                    {"parameters": torch.cat([cells, torch.full_like(cells, -30.0)], 1)},
                ),
            )

        def decode(self, z, return_dict):
            return (z[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3),)

    flat = np.repeat(np.repeat(picture(3, 4), 8, 0), 8, 1)
    assert np.array_equal(decode(Keeps(), encode(Keeps(), flat)), flat)


def test_encode_refuses_odd_sizes_and_nan(vae):
    with pytest.raises(InputError, match="30x16 pixels; the autoencoder takes multiples of 8"):
        encode(vae, picture(16, 30))
    with pytest.raises(CheckpointError, match="NaN"):
        encode(vae, picture(), noise=torch.full((1, 16, 6, 8), float("nan")))


TILES = [
    # length, tile, overlap -> starts and skipped fronts, width of the blend; by sd-cli's rule
    (64, 32, 0.5, [(0, 0), (16, 0), (32, 0)], 16),
    (100, 32, 0.5, [(0, 0), (17, 0), (34, 0), (51, 0), (68, 0)], 15),
    (40, 32, 0.5, [(0, 0), (8, 0)], 24),
    (70, 32, 0.0, [(0, 0), (19, 0), (38, 0)], 13),
    (64, 32, 0.0, [(0, 0), (32, 0)], 0),
    (101, 32, 0.25, [(0, 0), (23, 0), (46, 0), (69, 0)], 9),
    (32, 32, 0.5, [(0, 0)], 0),
    (8, 32, 0.5, [(0, 0)], 0),
]


@pytest.mark.parametrize(("length", "tile", "overlap", "starts", "shared"), TILES)
def test_tiles_lie_where_sd_cli_puts_them(length, tile, overlap, starts, shared):
    assert tile_starts(length, tile, overlap) == (starts, shared)


def test_tiles_cover_and_their_weights_add_up():
    """What changes nothing per tile changes nothing at all, whatever the sizes: no seam, no gap, no
    double.
    """
    for size in range(4, 90, 7):
        for tiling in (Tiling(), Tiling(16, 24, 0.25), Tiling(5, 9, 0.0), Tiling(4, 31, 0.5)):
            x = torch.randn(1, 2, size, size + 3)
            assert torch.allclose(tiled(lambda tile: tile, x, tiling, 1, 1), x, atol=1e-5), (
                size,
                tiling,
            )
    x, sizes = torch.randn(1, 2, 40, 56), []

    def enlarge(tile):
        sizes.append(tuple(tile.shape[2:]))
        return tile.repeat_interleave(8, 2).repeat_interleave(8, 3)

    big = tiled(enlarge, x, Tiling(width=24, height=16), 8, 1)
    assert torch.allclose(big, x.repeat_interleave(8, 2).repeat_interleave(8, 3), atol=1e-5)
    assert set(sizes) == {(16, 24)}  # width and height are not confused
    small = tiled(lambda tile: tile[:, :, ::8, ::8], big, Tiling(width=24, height=16), 1, 8)
    assert torch.allclose(small, x, atol=1e-5)


def test_tiles_are_what_diffusers_tiles_are(vae):
    """Seeded weights see far, so tiles change much: ours must be nearer to diffusers' tiles,
    blended otherwise, than to the whole.
    """
    whole = encode(vae, picture(128, 192))
    ours = (
        encode(vae, picture(128, 192), tiling=Tiling(8, 8)),
        decode(vae, whole, tiling=Tiling(8, 8)).astype(int),
    )
    untiled = whole, decode(vae, whole).astype(int)
    vae.enable_tiling()
    vae.tile_latent_min_size, vae.tile_sample_min_size, vae.tile_overlap_factor = 8, 64, 0.5
    theirs = encode(vae, picture(128, 192)), decode(vae, whole).astype(int)
    vae.disable_tiling()
    assert ours[0].shape == whole.shape
    assert (ours[0] - theirs[0]).norm() < 0.5 * (ours[0] - untiled[0]).norm()
    assert np.abs(ours[1] - theirs[1]).mean() < 0.5 * np.abs(ours[1] - untiled[1]).mean()


def test_what_fits_in_one_tile_is_the_same(vae):
    latents = encode(vae, picture(128, 192))  # 16x24 cells
    assert torch.equal(latents, encode(vae, picture(128, 192), tiling=Tiling()))
    assert np.array_equal(decode(vae, latents), decode(vae, latents, tiling=Tiling()))


def test_tiling_in_sd_clis_words():
    assert Tiling.parse() == Tiling() == Tiling(32, 32, 0.5)
    assert Tiling.parse("24x48", 0.25) == Tiling(24, 48, 0.25)
    assert Tiling.parse("24") == Tiling(24, 24)
    for size in ("", "x", "24x", "24x24x24", "-4", "1.5"):
        with pytest.raises(RequestError, match="vae-tile-size"):
            Tiling.parse(size)
    with pytest.raises(RequestError, match="at least 4x4"):
        Tiling(3, 32)
    for overlap in (-0.1, 0.6, float("nan")):
        with pytest.raises(RequestError, match="vae-tile-overlap"):
            Tiling(overlap=overlap)


# -------------------------------------------------------------------------------------- the formats

TEXT = 'a café, 雨 \U0001f327\nSteps: 4\n{"pulid_generate": "1"}'


@pytest.fixture
def drawn():
    return Picture(Job(GenerationRequest("a cat"), 42, (1.0, 0.0), ()), picture(), TEXT)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_picture_in_every_format(drawn, format):
    data = drawn.encode(format)
    assert data == drawn.encode(format)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == format
        pixels = np.array(image)
    if format == "JPEG":
        assert np.abs(pixels.astype(int) - drawn.pixels).mean() < 3
    else:
        assert np.array_equal(pixels, drawn.pixels)
    assert read_parameters(data) == TEXT
    assert read_parameters(replace(drawn, parameters="plain").encode(format)) == "plain"
    bare = drawn.encode(format, metadata=False)
    assert len(bare) < len(data)
    with pytest.raises(RequestError, match="no parameters"):
        read_parameters(bare)


def test_the_text_of_a_png(drawn):
    with Image.open(io.BytesIO(drawn.encode("PNG"))) as image:
        assert image.text["parameters"] == TEXT


def test_the_text_lies_where_others_look_for_it(drawn):
    """AUTOMATIC1111 writes the EXIF UserComment through piexif: the word UNICODE, a zero, UTF-16
    with the high byte first.
    """
    for format in ("JPEG", "WEBP"):
        with Image.open(io.BytesIO(drawn.encode(format))) as image:
            assert image.getexif().get_ifd(0x8769)[0x9286] == b"UNICODE\0" + TEXT.encode(
                "utf-16-be"
            )


def test_jpeg_keeps_whole_colour_planes(drawn):
    with Image.open(io.BytesIO(drawn.encode("JPEG"))) as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


def test_a_text_too_long_for_jpeg_says_so(drawn):
    long = replace(drawn, parameters="x" * 40_000)
    with pytest.raises(OutputError, match="40000 characters does not fit a JPEG"):
        long.encode("JPEG")
    assert (
        read_parameters(long.encode("WEBP"))
        == read_parameters(long.encode("PNG"))
        == long.parameters
    )


def test_the_suffix_names_the_format():
    for suffix, format in SUFFIXES.items():
        assert format_of(f"folder.x/a{suffix}") == format_of(f"A{suffix.upper()}") == format
    assert format_of("-") == "PNG"
    for name in ("a", "a.gif", "a.png.", ".png"):
        with pytest.raises(
            OutputError,
            match=r"is not that of a picture format; end the name in one of \.png, \.jpg",
        ):
            format_of(name)


def test_what_carries_no_text():
    for data in (b"", b"<html>", file_of(picture())[:60]):
        with pytest.raises(RequestError, match="not a readable"):
            read_parameters(data)
    for format in ("PNG", "JPEG", "WEBP"):
        with pytest.raises(RequestError, match="no parameters"):
            read_parameters(encode_pixels(picture(), format, None))
