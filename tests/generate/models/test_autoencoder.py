"""The autoencoder both ways, whole and in tiles, against diffusers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.models.stock_models import stock_autoencoder
from support.pictures.picture_files import gradient

from pulid_extract.shared.model_files import read_header
from pulid_generate.errors import CheckpointError, InputError, RequestError
from pulid_generate.files.model_set import ModelFiles
from pulid_generate.models.autoencoder import decode, encode, has_encoder, load_vae
from pulid_generate.models.tiles import tile_starts, tiled
from pulid_generate.pipeline.fitting import Fitting
from pulid_generate.request.generation import GenerationRequest
from pulid_generate.request.job import StartPicture
from pulid_generate.request.tiling import Tiling
from pulid_generate.sampling.noise import make_noise


@pytest.fixture(scope="module")
def vae(micro):
    return load_vae(read_header(micro / "ae.safetensors"), torch.float32)


def test_encode_is_diffusers_scaled_and_shifted(vae):
    latents = encode(vae, gradient())
    assert (latents.shape, latents.dtype) == ((1, 16, 6, 8), torch.float32)
    pixels = torch.from_numpy(gradient()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        mean, log_variance = vae.encode(pixels).chunk(2, dim=1)
    assert torch.allclose(latents, (mean - 0.1159) * 0.3611, atol=1e-6)
    noise = make_noise(3, 64, 48, "cuda")
    sample = encode(vae, gradient(), noise=noise)
    assert torch.allclose(
        sample, (mean + torch.exp(0.5 * log_variance) * noise - 0.1159) * 0.3611, atol=1e-6
    )
    assert not torch.allclose(sample, latents, atol=1e-3)


def test_decode_undoes_the_scale_of_encode():
    """Through an autoencoder that keeps what it is given, both ways together give the picture
    back.
    """

    class Keeps:
        device, dtype = torch.device("cpu"), torch.float32

        def encode(self, pixels):
            cells = pixels[:, :, ::8, ::8].repeat(1, 6, 1, 1)[:, :16]
            return torch.cat([cells, torch.full_like(cells, -30.0)], 1)

        def decode(self, latents):
            return latents[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3)

    flat = np.repeat(np.repeat(gradient(3, 4), 8, 0), 8, 1)
    assert np.array_equal(decode(Keeps(), encode(Keeps(), flat)), flat)


def test_encode_refuses_odd_sizes_and_nan(vae):
    with pytest.raises(InputError, match="30x16 pixels; the autoencoder takes multiples of 8"):
        encode(vae, gradient(16, 30))
    with pytest.raises(CheckpointError, match="NaN"):
        encode(vae, gradient(), noise=torch.full((1, 16, 6, 8), float("nan")))


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


class StockTiles:
    """diffusers' autoencoder with the same weights, tiling by itself."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, vae):
        self.model = stock_autoencoder(vae)
        self.model.enable_tiling()
        self.model.tile_latent_min_size, self.model.tile_sample_min_size = 8, 64
        self.model.tile_overlap_factor = 0.5

    def encode(self, pixels):
        return self.model.encode(pixels, return_dict=False)[0].parameters

    def decode(self, latents):
        return self.model.decode(latents, return_dict=False)[0]


def test_tiles_are_what_diffusers_tiles_are(vae):
    """Seeded weights see far, so tiles change much: ours must be nearer to diffusers' tiles,
    blended otherwise, than to the whole.
    """
    whole = encode(vae, gradient(128, 192))
    ours = (
        encode(vae, gradient(128, 192), tiling=Tiling(8, 8)),
        decode(vae, whole, tiling=Tiling(8, 8)).astype(int),
    )
    untiled = whole, decode(vae, whole).astype(int)
    stock = StockTiles(vae)
    theirs = encode(stock, gradient(128, 192)), decode(stock, whole).astype(int)
    assert ours[0].shape == whole.shape
    assert (ours[0] - theirs[0]).norm() < 0.5 * (ours[0] - untiled[0]).norm()
    assert np.abs(ours[1] - theirs[1]).mean() < 0.5 * np.abs(ours[1] - untiled[1]).mean()


def test_what_fits_in_one_tile_is_the_same(vae):
    latents = encode(vae, gradient(128, 192))  # 16x24 cells
    assert torch.equal(latents, encode(vae, gradient(128, 192), tiling=Tiling()))
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


def test_a_decoder_alone_decodes_and_cannot_start_from_a_picture(micro, tmp_path, vae):
    whole = load_file(micro / "ae.safetensors")
    alone = {name: tensor for name, tensor in whole.items() if name.startswith("decoder.")}
    save_file(alone, tmp_path / "decoder.safetensors")
    header = read_header(tmp_path / "decoder.safetensors")
    assert not has_encoder(header)
    assert has_encoder(read_header(micro / "ae.safetensors"))
    ours = load_vae(header, torch.float32)
    theirs = load_vae(read_header(micro / "ae.safetensors"), torch.float32)
    latents = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(decode(ours, latents), decode(theirs, latents))
    files = ModelFiles.find(
        models_dir=micro,
        flux=micro / "flux1-schnell.safetensors",
        vae=tmp_path / "decoder.safetensors",
        with_pulid=False,
    )
    fitting, request = (
        Fitting(files),
        GenerationRequest("a cat", width=32, height=32, steps=4, strength=0.5),
    )
    assert fitting.job(request).start is None
    start = StartPicture(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(
        CheckpointError, match=r"decoder\.safetensors: holds a decoder alone, and -"
    ):
        fitting.job(request, start=start)
