"""--hires beside what else decides a step: the picture of the two commands that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from support.distances import pixels
from support.models.micro_flags import encoder_flags, pulid_flags
from support.pictures.picture_files import encode, gradient

from pulid_generate.pictures.description import parse_description
from pulid_generate.pipeline import denoiser
from pulid_generate.sampling.noise import NoiseStream

SIZE, TWICE = ("-W", 64, "-H", 48), ("-W", 128, "-H", 96)
SIGMAS = {"references": "0.6,0.3,0", "easycache": "0.8,0.6,0.4,0.2,0"}
EASY = ("--cache-mode", "easycache", "--cache-option", "threshold=5,start=0,end=1")


@pytest.fixture
def base(micro, kontext, person, tmp_path):
    """From a picture, so that the encoder's samples of references are those of the second command
    too, which is from a picture in any case.
    """
    start = tmp_path / "start.png"
    start.write_bytes(encode(gradient(48, 64)))
    return (
        *("--diffusion-model", kontext, *encoder_flags(micro)),
        *("--t5-tokenizer", micro / "tokenizer.json", "--device", "cpu"),
        *pulid_flags(micro),
        *("--pulid-id-embedding", person, "-p", "a cat"),
    )


@pytest.mark.parametrize("more", ["references", "easycache"])
def test_it_is_the_two_commands(generate, base, tmp_path, monkeypatch, more):
    reference = tmp_path / "reference.png"
    reference.write_bytes(encode(gradient(32, 80)))
    beside = {
        "references": ("-r", reference, "--disable-auto-resize-ref-image"),
        "easycache": EASY,
    }[more]
    sigmas = SIGMAS[more]
    first = ("-i", tmp_path / "start.png", "--strength", 1, "--sigmas", sigmas, *SIZE)

    def draw(name, *flags):
        path = tmp_path / f"{name}.png"
        run = generate(*base, *flags, "-o", path, "-v")
        assert run.code == 0, run.err
        return path, run.err

    hires = ("--hires", "--hires-upscaler", "Nearest", "--hires-sigmas", sigmas)
    ours, said = draw("ours", *first, *beside, *hires)
    small, _ = draw("small", *first, *beside)
    with Image.open(small) as picture:
        picture.resize((128, 96), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    second = ("-i", tmp_path / "large.png", "--strength", 1, "--sigmas", sigmas, *TWICE)
    # the encoder's sample has taken the seed's first draw, the steps begin with the second
    monkeypatch.setattr(denoiser, "NoiseStream", lambda *args: NoiseStream(*args[:4], after=1))
    by_hand, _ = draw("by_hand", *second, *beside)
    assert np.array_equal(pixels(ours), pixels(by_hand))
    # .. and what stands beside is in the second pass
    without, _ = draw("without", *second)
    assert not np.array_equal(pixels(ours), pixels(without))
    facts = parse_description(Image.open(ours).text["parameters"])
    if more == "references":
        assert len(facts["references"]) == 1
    else:
        assert facts["step_cache"]["mode"] == more
        # both passes say what they reused
        assert said.count("reused what others computed") == 2
