"""--preview and --tae through the command: what is shown, and that the picture is the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.pictures.micro_drawing import HEIGHT, WIDTH


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
    assert np.array_equal(shown(tmp_path / "vae.png"), plain.pixels)
    assert np.array_equal(shown(tmp_path / "tae.png"), draw("--tae", tae).pixels)

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


def test_previews_take_nobodys_place(generate, kept, tmp_path):
    start = tmp_path / "start.png"
    Image.new("RGB", (WIDTH, HEIGHT)).save(start)
    before = start.read_bytes()
    shown_at = ("--preview", "proj", "--preview-path")
    run = generate(*kept.base, *shown_at, "-", "-o", tmp_path / "a.png")
    assert "preview-path -: previews are one file" in run.error
    run = generate(*kept.base, *shown_at, tmp_path / "a.png", "-o", tmp_path / "a.png")
    assert "a.png: is a picture that is drawn" in run.error
    # and where many are drawn
    rows = tmp_path / "rows.jsonl"
    rows.write_text(f'{{"init_img": "{start}", "steps": 4, "strength": 0.5, "output": "b.png"}}\n')
    many = ("batch", rows, *kept.base, "--output-dir", tmp_path, *shown_at)
    assert "start.png: is read as an input" in generate(*many, start).error
    assert "b.png: is a picture that is drawn" in generate(*many, tmp_path / "b.png").error
    alone = ("detail", start, *kept.base, "-o", tmp_path / "c.png", *shown_at)
    run = generate(*alone, start)
    assert "start.png: is read as an input" in run.error
    assert start.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"start.png", "rows.jsonl"}


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
