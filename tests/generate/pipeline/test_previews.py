"""--preview and --tae through the command: what is shown, and that the picture is the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.micro_drawing import HEIGHT, WIDTH


@pytest.fixture(scope="module")
def tae(tmp_path_factory):
    from diffusers import AutoencoderTiny

    torch.manual_seed(3)
    widths = (32,) * 4
    model = AutoencoderTiny(
        encoder_block_out_channels=widths, decoder_block_out_channels=widths, latent_channels=16
    )
    path = tmp_path_factory.mktemp("tae") / "taef1.safetensors"
    save_file(model.state_dict(), path)
    return path


def shown(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_a_preview_shows_the_picture_and_changes_nothing(draw, tae, tmp_path):
    plain = draw()
    sizes = {"proj": (HEIGHT // 8, WIDTH // 8, 3), "tae": (HEIGHT, WIDTH, 3)}
    for kind in ("proj", "tae", "vae"):
        path = tmp_path / f"{kind}.png"
        flags = ("--tae", tae, "--taesd-preview-only") if kind == "tae" else ()
        assert draw("--preview", kind, "--preview-path", path, *flags).data == plain.data
        assert shown(path).shape == sizes.get(kind, (HEIGHT, WIDTH, 3))
    # what the last step comes to is the picture
    difference = shown(tmp_path / "vae.png").astype(int) - plain.pixels
    assert np.abs(difference).max() <= 1

    noisy = tmp_path / "noisy.png"
    draw("--preview", "proj", "--preview-path", noisy, "--preview-noisy")
    assert not np.array_equal(shown(noisy), shown(tmp_path / "proj.png"))
    never = tmp_path / "never.png"
    draw("--preview", "proj", "--preview-path", never, "--preview-interval", 3)
    assert not never.exists()


def test_the_tiny_autoencoder_decodes_and_encodes(draw, kept, tae, tmp_path):
    plain, tiny = draw(), draw("--tae", tae)
    assert not tiny.same_pixels(plain)
    assert tiny.facts["models"]["vae"].startswith("taef1")
    Image.fromarray(plain.pixels).save(tmp_path / "start.png")
    start = ("-i", tmp_path / "start.png", "--steps", 4, "--strength", 0.5)
    assert not draw(*start, "--tae", tae).same_pixels(draw(*start))


def test_what_is_no_preview_is_refused(generate, kept, tae, micro, tmp_path):
    def run(*flags):
        return generate(*kept.base, *flags, "-o", tmp_path / "o.png")

    assert run("--preview", "tae").code == 2
    assert "--preview tae needs '--tae'" in run("--preview", "tae").err
    assert "--taesd-preview-only needs '--tae'" in run("--taesd-preview-only").err
    wrong = run("--preview", "proj", "--preview-path", tmp_path / "p.txt")
    assert "is not that of a picture format" in wrong.err
    assert "ae.safetensors" in run("--tae", micro / "ae.safetensors").error
    assert "--preview is none" in run("--preview-noisy").err
