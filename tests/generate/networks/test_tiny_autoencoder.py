"""The tiny autoencoder: diffusers' numbers, Flux's scale, and files of other models refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pulid_extract.shared.model_files import kind_of, read_header
from pulid_generate.errors import CheckpointError
from pulid_generate.models.autoencoder import decode, encode, has_encoder, load_vae
from pulid_generate.models.tiny_autoencoder import TinyCodec, load_tiny


def stock(latent: int = 16, width: int = 64):
    from diffusers import AutoencoderTiny

    torch.manual_seed(3)
    widths = (width,) * 4
    model: Any = AutoencoderTiny(
        encoder_block_out_channels=widths, decoder_block_out_channels=widths, latent_channels=latent
    )
    return model.eval()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "taef1.safetensors"
    model = stock()
    save_file(model.state_dict(), path)
    return path, model


@torch.inference_mode()
def test_both_ways_are_diffusers(tiny):
    path, model = tiny
    header = read_header(path)
    assert kind_of(header).name == "Flux tiny autoencoder"
    ours = load_vae(header, torch.float32)
    assert isinstance(ours, TinyCodec)
    latents = 4 * torch.randn(1, 16, 6, 8)
    from pulid_generate.files.layouts import SCALING_FACTOR, SHIFT_FACTOR

    # theirs takes Flux's latents as they are, ours what an autoencoder takes
    decoded = ours.decode(latents / SCALING_FACTOR + SHIFT_FACTOR)
    torch.testing.assert_close(decoded, model.decoder(latents), atol=1e-5, rtol=1e-5)
    pixels = 2 * torch.rand(1, 3, 48, 64) - 1
    mean, variance = ours.encode(pixels).chunk(2, dim=1)
    encoded = (mean - SHIFT_FACTOR) * SCALING_FACTOR
    torch.testing.assert_close(encoded, model.encoder(pixels), atol=1e-5, rtol=1e-5)
    assert (variance == -30).all()
    # .. through the functions of the other autoencoder
    picture = decode(ours, latents)
    assert picture.shape == (48, 64, 3)
    there = encode(ours, picture, noise=torch.randn(1, 16, 6, 8))
    assert there.shape == latents.shape
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
    torch.testing.assert_close(there, model.encoder(pixels), atol=1e-4, rtol=1e-4)


def test_another_models_is_refused(tmp_path):
    path = tmp_path / "taesd.safetensors"
    save_file(stock(4).state_dict(), path)
    assert kind_of(read_header(path)).name == "tiny autoencoder of another model"
    with pytest.raises(CheckpointError, match=r"64x4x3x3; Flux's latents have 16 channels"):
        load_tiny(read_header(path), torch.float32)


def test_a_file_that_lacks_a_layer_is_refused(tiny, tmp_path):
    state = dict(tiny[1].state_dict())
    del state["decoder.layers.6.weight"]
    save_file(state, tmp_path / "cut.safetensors")
    with pytest.raises(CheckpointError, match=r"decoder\.layers\.6\.weight"):
        load_tiny(read_header(tmp_path / "cut.safetensors"), torch.float32)


def split(state, folder):
    """As madebyollin/taef1 publishes them beside the whole: the layers of each by their numbers,
    and a first layer of the decoder's without weights.
    """
    parts = {"encoder": {}, "decoder": {}}
    for name, tensor in state.items():
        part, _, rest = name.partition(".layers.")
        number, _, leaf = rest.partition(".")
        parts[part][f"{int(number) + (part == 'decoder')}.{leaf}"] = tensor
    for part, tensors in parts.items():
        save_file(tensors, folder / f"taef1_{part}.safetensors")
    return folder / "taef1_encoder.safetensors", folder / "taef1_decoder.safetensors"


@torch.inference_mode()
def test_the_decoders_own_file_decodes(tiny, tmp_path):
    encoder, decoder = split(tiny[1].state_dict(), tmp_path)
    header = read_header(decoder)
    assert kind_of(header).name == "Flux tiny autoencoder"
    assert not has_encoder(header)
    latents = torch.randn(1, 16, 4, 6)
    ours, whole = load_vae(header, torch.float32), load_vae(read_header(tiny[0]), torch.float32)
    assert torch.equal(ours.decode(latents), whole.decode(latents))
    assert "decodes nothing" in kind_of(read_header(encoder)).refusal
    # .. of another model, and not whole
    _, other = split(stock(4).state_dict(), tmp_path)
    assert kind_of(read_header(other)).name == "tiny autoencoder of another model"
    short = dict(tiny[1].state_dict())
    del short["decoder.layers.6.weight"]
    with pytest.raises(CheckpointError, match=r"decoder\.layers\.6\.weight"):
        load_vae(read_header(split(short, tmp_path)[1]), torch.float32)


def test_what_has_to_be_encoded_needs_the_whole(draw, generate, kept, tiny, tmp_path):
    encoder, decoder = split(tiny[1].state_dict(), tmp_path)
    drawn = draw("--tae", decoder)
    assert drawn.same_pixels(draw("--tae", tiny[0]))
    assert not drawn.same_pixels(draw())
    start = tmp_path / "start.png"
    start.write_bytes(draw().data)
    from_picture = ("-i", start, "--strength", 0.5, "--steps", 4, "-o", tmp_path / "no.png")
    refused = generate(*kept.base, "--tae", decoder, *from_picture)
    assert "holds a decoder alone, and --init-img needs the encoder too" in refused.error
    assert "the whole of taef1" in refused.error
    previews = ("--taesd-preview-only", "--preview", "tae", "--preview-path", tmp_path / "p.png")
    assert generate(*kept.base, "--tae", decoder, *previews, *from_picture).code == 0
    assert (tmp_path / "p.png").exists()
    refused = generate(*kept.base, "--tae", encoder, "-o", tmp_path / "no.png")
    assert "decodes nothing; use the decoder's file" in refused.error
