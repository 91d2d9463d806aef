"""Starting pictures, LoRAs, prompts, names, placement and usage through the command line, each with
a twin that must differ.
"""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.pictures.micro_drawing import HEIGHT, WIDTH, write_lora

from pulid_generate.errors import PlacementError
from pulid_generate.injection.compiling import check_compiler
from pulid_generate.pipeline import loading, pixels, planning
from pulid_generate.request.conditions.mask_edge import feathered, grown

FEW = ("--steps", 4)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A picture of the drawn size, with structure."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    Image.fromarray(np.stack([x * 3, y * 5, (x + y) * 2], axis=2).astype(np.uint8)).save(path)
    return path


# ----------------------------------------------------------------------------------- from a picture


def test_strength_says_how_much_of_a_picture_is_redrawn(draw, kept, photo):
    pictures = {
        strength: draw(*FEW, "-i", photo, "--strength", strength) for strength in (0.25, 0.5)
    }
    noise = draw(*FEW)
    assert not pictures[0.5].same_pixels(pictures[0.25])
    assert not pictures[0.5].same_pixels(noise)
    assert [len(pictures[strength].facts["sigmas"]) - 1 for strength in (0.25, 0.5)] == [2, 3]
    assert set(pictures[0.5].facts["init_image"]) == {"sha256"}
    with_pulid = draw(
        *FEW, "-i", photo, "--strength", 0.5, *kept.pulid, "--pulid-id-embedding", kept.me
    )
    assert not with_pulid.same_pixels(pictures[0.5])
    assert (
        draw(*FEW, "-i", "-", "--strength", 0.5, stdin=photo.read_bytes()).data
        == pictures[0.5].data
    )


def test_a_starting_picture_gives_the_size(generate, kept, photo, tmp_path):
    Image.open(photo).crop((0, 0, 40, 33)).save(tmp_path / "small.png")
    place = kept.base.index("-W")
    sizeless = kept.base[:place] + kept.base[place + 4 :]
    flags = (
        "-i",
        tmp_path / "small.png",
        "--steps",
        4,
        "--strength",
        0.5,
        "-o",
        tmp_path / "o.png",
        "--json",
    )
    facts = json.loads(generate(*sizeless, *flags).out)
    assert (facts["width"], facts["height"]) == (32, 32)


def test_inpainting_leaves_the_other_pixels_alone(draw, photo, tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[8:30, 20:50] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    picture = draw(*FEW, "-i", photo, "--mask", tmp_path / "mask.png", "--strength", 1)
    original = np.asarray(Image.open(photo))
    assert np.array_equal(picture.pixels[mask == 0], original[mask == 0])
    assert np.abs(picture.pixels[mask == 255].astype(int) - original[mask == 255]).mean() > 3
    assert set(picture.facts["init_image"]) == {"sha256", "mask_sha256"}
    everything = draw(*FEW, "-i", photo, "--strength", 0.5)
    assert not np.array_equal(everything.pixels[mask == 0], original[mask == 0])

    soft = draw(
        *(*FEW, "-i", photo, "--mask", tmp_path / "mask.png", "--strength", 1),
        *("--mask-grow", -2, "--mask-blur", 1.5),
    )
    inner = grown(mask, -2)
    reached = feathered(inner, 1.5) > 0
    assert np.array_equal(soft.pixels[~reached], original[~reached])
    assert not np.array_equal(soft.pixels[reached & (inner == 0)], original[reached & (inner == 0)])
    assert soft.facts["init_image"]["mask_blur"] == 1.5
    assert soft.facts["init_image"]["mask_sha256"] != picture.facts["init_image"]["mask_sha256"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("-i", "nowhere.png"), "nowhere.png: no such file"),
        (("-i", "text.png"), "is not a readable JPEG, PNG, WebP, BMP or TIFF picture"),
        (("-i", "photo.png", "--strength", 1.5), "strength 1.5: expected 0"),
        # sd-cli's default 0.75 of 4 steps
        (("-i", "photo.png", "--steps", 4), "start from nothing but noise"),
        (("-i", "photo.png", "--steps", 1, "--strength", 0.5), "give at least 2 steps"),
        (("-i", "photo.png", "--mask", "small.png"), "the mask is 32x32 pixels"),
        (("-i", "photo.png", "--mask", "black.png"), "all black"),
        (("-i", "photo.png", "--mask", "dot.png", "--mask-grow", -1), "leaves nothing to redraw"),
        (("-i", "photo.png", "--mask", "dot.png", "--mask-blur", -1), "mask-blur -1: expected"),
    ],
)
def test_a_starting_picture_is_used_or_the_program_fails(
    generate, kept, photo, tmp_path, monkeypatch, flags, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").write_bytes(photo.read_bytes())
    (tmp_path / "text.png").write_text("no picture")
    Image.new("L", (32, 32), 255).save("small.png")
    Image.new("L", (WIDTH, HEIGHT)).save("black.png")
    dot = Image.new("L", (WIDTH, HEIGHT))
    dot.putpixel((5, 5), 255)
    dot.save("dot.png")
    assert message in generate(*kept.base, *flags, "-o", "o.png").refusal
    assert not (tmp_path / "o.png").exists()


# ------------------------------------------------------------------------------------ LoRA, prompts


def test_a_lora_by_flag_and_by_tag(draw, kept):
    lora = write_lora(kept.folder / "style.safetensors")
    flag = draw("--lora", f"{lora}:0.7")
    tag = draw("-p", "a photo of a cat<lora:style:0.7>", "--lora-model-dir", kept.folder)
    assert tag.data == flag.data
    assert not flag.same_pixels(draw())
    assert not flag.same_pixels(draw("--lora", lora))
    assert draw("--lora", f"{lora}:0").data == draw().data
    assert [(use["name"], use["weight"]) for use in flag.facts["loras"]] == [("style", 0.7)]
    # one file named twice: summed
    assert draw("--lora", f"{lora}:0.3", "--lora", f"{lora}:0.4").same_pixels(flag)
    person = (*kept.pulid, "--pulid-id-embedding", kept.me)
    both = draw("--lora", f"{lora}:0.7", *person)
    assert not both.same_pixels(flag)
    assert draw("--lora", f"{lora}:0.7", *person, "--pulid-id-weight", 0).data == flag.data


def test_a_lora_does_something_or_the_program_fails(generate, kept, tmp_path):
    other = write_lora(
        tmp_path / "other.safetensors", "transformer.single_transformer_blocks.99.proj_mlp"
    )
    narrow = write_lora(tmp_path / "narrow.safetensors", out=500)
    for flags, message in (
        (("--lora", other), "other.safetensors"),
        (("--lora", narrow), "narrow.safetensors"),
        (("--lora", tmp_path / "none.safetensors"), "no such file"),
        (("-p", "a <lora:other:1>"), "--lora-model-dir"),
        (("-p", "a <lora:nothing:1>", "--lora-model-dir", tmp_path), "nothing"),
        (("--cfg-scale", 2, "-n", "a <lora:other:1>"), "negative"),
    ):
        result = generate(*kept.base, *flags, "-o", tmp_path / "o.png", "--verbose")
        assert message in result.refusal
        assert "loading" not in result.err
    assert not (tmp_path / "o.png").exists()


def test_prompts_from_files_and_with_weights(draw, generate, kept, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_bytes("a photo of a cat\r\n".encode("utf-8-sig"))
    place = kept.base.index("-p")
    promptless = kept.base[:place] + kept.base[place + 2 :]
    for name, stdin in ((file, b""), ("-", file.read_bytes())):
        result = generate(*promptless, "--prompt-file", name, "-o", "-", stdin=stdin)
        assert result.code == 0, result.err
        assert result.out == draw().data
    cfg = ("--cfg-scale", 2)
    file.write_text("blurry")
    assert draw(*cfg, "--negative-prompt-file", file).data == draw(*cfg, "-n", "blurry").data
    assert not draw(*cfg, "-n", "blurry").same_pixels(draw(*cfg))
    weighted = ("-p", "a photo of a (cat:1.6)")
    assert not draw(*weighted, "--prompt-weights").same_pixels(draw(*weighted))
    assert not draw(*weighted, "--prompt-weights").same_pixels(
        draw("-p", "a photo of a (cat:1.1)", "--prompt-weights")
    )


# -------------------------------------------------------------------------------- output, placement


def test_names_of_several_pictures(generate, kept, tmp_path):
    one_step = ("--steps", 1, "-b", 3)
    for flags, names in (
        (("-o", tmp_path / "x.webp"), ["x_0.webp", "x_1.webp", "x_2.webp"]),
        (("-o", tmp_path / "y.png", "--output-begin-idx", 9), ["y_9.png", "y_10.png", "y_11.png"]),
        (
            ("-o", tmp_path / "z_%03d.png", "--output-begin-idx", 5),
            ["z_005.png", "z_006.png", "z_007.png"],
        ),
        (("-o", tmp_path / "50%%.png"), ["50%%_0.png", "50%%_1.png", "50%%_2.png"]),
    ):
        result = generate(*kept.base, *one_step, *flags)
        assert result.code == 0, result.err
        assert result.out.decode().split() == [str(tmp_path / name) for name in names]
        assert len({(tmp_path / name).read_bytes() for name in names}) == 3


def test_tiles(draw):
    tiles = {
        "whole": (),
        "4x4": ("--vae-tiling", "--vae-tile-size", "4x4"),
        "4": ("--vae-tiling", "--vae-tile-size", "4", "--vae-tile-overlap", 0),
        "8x4": ("--vae-tiling", "--vae-tile-size", "8x4"),
    }
    pictures = {name: draw(*flags) for name, flags in tiles.items()}
    assert len({picture.pixels.tobytes() for picture in pictures.values()}) == 4
    assert pictures["4"].facts["vae_tiling"] == {"size": "4", "overlap": 0.0}


def test_quiet_and_verbose(generate, kept):
    flags = (*kept.base, "--guidance", 9, "--fa", "-o", kept.folder / "said.png")
    assert generate(*flags, "--quiet").err == ""
    usual = generate(*flags).err
    assert [line.split()[:2] for line in usual.splitlines()] == [
        ["note:", "--fa"],
        ["note:", "--guidance"],
    ]
    told = generate(*flags, "--verbose").err
    for line in (
        r"Flux transformer: .*flux1-schnell\.safetensors",
        "loading Flux",
        r"step 1 of 2, peak \d",
        r"step 2 of 2, [\d.]+ s/it, peak",
    ):
        assert re.search(line, told)


def test_everything_out_of_one_file(draw, generate, kept, micro, tmp_path):
    prefixes = {
        "flux1-schnell": "model.diffusion_model.",
        "ae": "vae.",
        "clip_l": "text_encoders.clip_l.transformer.",
        "t5xxl_fp16": "text_encoders.t5xxl.transformer.",
    }
    tensors = {
        prefix + name: tensor
        for file, prefix in prefixes.items()
        for name, tensor in load_file(micro / f"{file}.safetensors").items()
    }
    save_file(tensors, tmp_path / "everything.safetensors")
    rest = kept.base[kept.base.index("--t5-tokenizer") :]
    result = generate("-m", tmp_path / "everything.safetensors", *rest, "-o", tmp_path / "o.png")
    assert result.code == 0, result.err
    assert np.array_equal(np.asarray(Image.open(tmp_path / "o.png")), draw().pixels)


def test_processor_threads_and_devices(draw, generate, kept):
    before = torch.get_num_threads()
    try:
        assert draw("--threads", 1).same_pixels(draw())
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    devices = generate("--list-devices")
    assert devices.code == 0
    assert "cpu\tprocessor" in devices.out.decode().splitlines()
    assert draw("--backend", "diffusion=cpu,te=cpu,vae=cpu").data == draw().data
    for flag, value in (
        ("--backend", "vulkan0"),
        ("--backend", "flux=cpu"),
        ("--max-vram", "much"),
        ("--weight-cache", "inf"),
    ):
        refused = generate(*kept.base, flag, value, "-o", kept.folder / "never.png")
        # a machine may have it
        assert flag[2:] in (refused.error if value == "vulkan0" else refused.usage_error)


def test_a_plan_that_cannot_fit_says_so_before_anything_loads(
    generate, kept, tmp_path, monkeypatch
):
    loaded = []
    for name in ("load_flux", "load_vae"):
        monkeypatch.setattr(loading, name, lambda *a, **o: loaded.append(a))
    for text in (loading.ClipText, loading.T5Text):
        monkeypatch.setattr(text, "load", lambda *a: loaded.append(a))
    monkeypatch.setattr(planning, "available_on", lambda devices: {"cpu": int(0.6 * 2**30)})
    result = generate(*kept.base, "-W", 2048, "-H", 2048, "-o", tmp_path / "o.png")
    advice = r"autoencoder: needs \S+ GiB of main memory, 0.6 GiB can be used; it would fit with -W and -H of half the size"
    assert re.search(advice, result.error)
    assert not loaded
    assert not (tmp_path / "o.png").exists()


def test_an_interrupt_leaves_no_file(generate, kept, tmp_path, monkeypatch):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pixels, "decode", interrupt)
    assert generate(*kept.base, "-o", tmp_path / "o.png").code == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_compiled_blocks_draw_the_same_picture(draw, kept):
    try:
        check_compiler(torch.device("cpu"))
    except PlacementError as error:
        pytest.skip(str(error))
    person = (*kept.pulid, "--pulid-id-embedding", kept.me)
    plain, compiled = draw(*person), draw(*person, "--compile")
    assert np.abs(plain.pixels.astype(int) - compiled.pixels).max() <= 1
    assert np.abs(plain.pixels.astype(int) - draw().pixels).max() > 1


# -------------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--prompt-file", "p.txt"), "--prompt and --prompt-file both give the text"),
        (("--strength", 0.5), "--strength needs '--init-img'"),
        (("--mask", "m.png"), "--mask needs '--init-img'"),
        (("--mask-blur", 4), "--mask-blur needs '--mask'"),
        (("--id-end-step", 1), "--id-end-step needs '--pulid-id-embedding'"),
        (("-i", "-", "--mask", "-"), "all want standard input"),
        (("--identity", "-,weight=1", "-i", "-"), "all want standard input"),
        (("--identity", "-", "--pulid-id-embedding", "-"), "all want standard input"),
        (("--identity-fusion", "median"), "--identity-fusion"),
        (("--negative-id", "some"), "--negative-id"),
        (("--strength", "much"), "--strength"),
        (("--compute", "int4"), "--compute"),
        (("--weight-cache", -1), "--weight-cache"),
        (("--weight-cache", "nan"), "--weight-cache"),
        (("--threads", "all"), "--threads"),
    ],
)
def test_wrong_usage_is_exit_2(generate, kept, flags, message):
    result = generate(*kept.base, *flags, "-o", kept.folder / "never.png")
    assert result.code == 2
    assert "Usage: pulid-generate" in result.err
    assert message in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("-r", "nowhere.png"), "nowhere.png: no such file"),
        (("-M", "convert"), "it can only be img_gen"),
        (("--compute", "int8"), "give a GGUF file"),
        (("--id-weight-schedule", "1:0.5"), "begin with step 0"),
        (("--id-weight-schedule", "0:1,2:0"), "is never reached"),
        (("--id-weight-schedule", "0-1"), "is not STEP:WEIGHT"),
        (("--id-end-step", 3), "there are only 2 steps"),
        (("--id-start-step", 1, "--id-end-step", "0.5"), "no step of 2 lies between them"),
        (("--id-weight-double", "nan"), "nan is not a weight"),
        (("-o", "-", "-b", 2), "standard output takes one picture"),
        (("--vae-tiling", "--vae-tile-size", "2"), "expected at least 4x4"),
        (("--prompt-weights", "-p", "a (cat:.)"), "(cat:.)"),
    ],
)
def test_what_cannot_be_done_is_one_line(generate, kept, tmp_path, flags, message):
    person = (*kept.pulid, "--pulid-id-embedding", kept.me)
    result = generate(*kept.base, *person, "-o", tmp_path / "o.png", *flags)
    assert message in result.refusal
    assert not (tmp_path / "o.png").exists()
