"""People, their steps and weights, guidance and schedules through the command line, each with a
twin that must differ.
"""

from __future__ import annotations

import io
import json
from itertools import combinations

import numpy as np
import pytest
from PIL import Image
from support.pictures.micro_drawing import HEIGHT, WIDTH, Drawn, write_lora

LEFT, RIGHT = f"box=0,0,{WIDTH // 2},{HEIGHT}", f"box={WIDTH // 2},0,{WIDTH // 2},{HEIGHT}"


@pytest.fixture
def me(kept):
    """The flags of one person, everywhere."""
    return (*kept.pulid, "--pulid-id-embedding", kept.me)


def differ(pictures: dict[str, Drawn]) -> None:
    """Every two pictures have other pixels."""
    for (one, a), (other, b) in combinations(pictures.items(), 2):
        assert not a.same_pixels(b), f"{one} draws the same picture as {other}"


# ------------------------------------------------------------------------------------------- people


def people(kept, *texts: str) -> tuple:
    return (*kept.pulid, *(part for text in texts for part in ("--identity", text)))


def test_people_side_by_side(draw, kept, me):
    both = draw(*people(kept, f"{kept.me},{LEFT}", f"{kept.you},{RIGHT}"))
    turned = draw(*people(kept, f"{kept.you},{RIGHT}", f"{kept.me},{LEFT}"))
    assert both.same_pixels(turned)  # the order of the flags is not a place
    pictures = {
        "nobody": draw(),
        "me everywhere": draw(*me),
        "both": both,
        "places changed": draw(*people(kept, f"{kept.you},{LEFT}", f"{kept.me},{RIGHT}")),
        "me twice": draw(*people(kept, f"{kept.me},{LEFT}", f"{kept.me},{RIGHT}")),
        "me alone, left": draw(*people(kept, f"{kept.me},{LEFT}")),
        "me alone, right": draw(*people(kept, f"{kept.me},{RIGHT}")),
        "me weaker": draw(*people(kept, f"{kept.me},{LEFT},weight=0.4", f"{kept.you},{RIGHT}")),
        "me later": draw(*people(kept, f"{kept.me},{LEFT},start=1", f"{kept.you},{RIGHT}")),
        "concatenated": draw(*people(kept, str(kept.me), str(kept.you))),
        "averaged": draw(*people(kept, str(kept.me), str(kept.you)), "--identity-fusion", "mean"),
    }
    differ(pictures)
    first, second = both.facts["identities"]
    assert (first["sha256"], second["sha256"]) == tuple(
        person["sha256"] for person in turned.facts["identities"]
    )[::-1]
    assert first["region_sha256"] != second["region_sha256"]
    alone, fused = (
        pictures["me alone, left"].facts["identity"],
        pictures["concatenated"].facts["identity"],
    )
    assert alone == {**first, "sha256": pictures["me everywhere"].facts["identity"]["sha256"]}
    assert fused["sha256"] not in (
        first["sha256"],
        second["sha256"],
        pictures["averaged"].facts["identity"]["sha256"],
    )


def test_a_mask_is_a_box(draw, kept, tmp_path):
    grey = np.zeros((HEIGHT, WIDTH), np.uint8)
    grey[:, : WIDTH // 2] = 255
    Image.fromarray(grey).save(tmp_path / "left.png")
    box = draw(*people(kept, f"{kept.me},{LEFT}"))
    mask = draw(*people(kept, f"{kept.me},mask={tmp_path / 'left.png'}"))
    assert mask.same_pixels(box)
    # a box can be drawn again from the picture alone
    told = box.facts["identity"]
    assert told.pop("box") == [0, 0, WIDTH // 2, HEIGHT]
    assert told == mask.facts["identity"]


def test_one_person_by_either_flag(draw, kept, me):
    assert draw(*people(kept, str(kept.me))).data == draw(*me).data
    assert (
        draw(*people(kept, f"{kept.me},weight=0.5")).data
        == draw(*me, "--pulid-id-weight", 0.5).data
    )
    # the flag of one person and --identity are people of one kind
    mixed = draw(*kept.pulid, "--pulid-id-embedding", kept.me, "--identity", kept.you)
    assert mixed.data == draw(*people(kept, str(kept.me), str(kept.you))).data


def test_a_person_named_twice_in_one_place_counts_as_one(draw, kept):
    """Overlaps share a weight of 1, also among equals."""
    whole = f"{kept.me},box=0,0,{WIDTH},{HEIGHT}"
    one, twice = draw(*people(kept, whole)), draw(*people(kept, whole, whole))
    assert np.abs(one.pixels.astype(int) - twice.pixels).max() <= 1
    half = draw(*people(kept, f"{whole},weight=0.5"))
    assert np.abs(one.pixels.astype(int) - half.pixels).max() > 5


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("box=64,0,32,48", "covers nothing of the picture, which has 64x48"),
        ("box=0,0,0,48", "width and height must be at least 1"),
        ("mask=black.png", "is black all over"),
        ("mask=wide.png", "has 80x48 pixels, the picture 64x48"),
        ("mask=nowhere.png", "(no such file;"),
        ("weight=1", "has no mask and no box while another has"),
        ("box=0,0,32", "expected X,Y,WIDTH,HEIGHT"),
        ("wieght=1", "unknown part 'wieght'"),
        ("box=0,0,32,48,start=2", "there are only 2 steps"),
    ],
)
def test_a_region_is_one_or_the_program_fails(
    generate, kept, tmp_path, monkeypatch, second, message
):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (WIDTH, HEIGHT)).save("black.png")
    Image.new("L", (80, HEIGHT), 255).save("wide.png")
    error = generate(
        *kept.base, *people(kept, f"{kept.me},{LEFT}", f"{kept.you},{second}"), "-o", "o.png"
    ).refusal
    assert message in error
    assert not (tmp_path / "o.png").exists()


# -------------------------------------------------------------------------------- weights and steps


def test_weights_and_steps_move_the_picture(draw, me):
    knobs = {
        "nobody": ("--pulid-id-weight", 0),
        "plain": (),
        "weight": ("--pulid-id-weight", 0.5),
        "end": ("--id-end-step", 1),
        "start": ("--id-start-step", 1),
        "schedule": ("--id-weight-schedule", "0:1,1:0.4"),
        "double": ("--id-weight-double", 0.3),
        "single": ("--id-weight-single", 0.3),
        "double only": ("--id-weight-single", 0),
        "single only": ("--id-weight-double", 0),
    }
    pictures = {name: draw(*me, *flags) for name, flags in knobs.items()}
    differ(pictures)
    usual = {"sha256", "weight", "start_step"}
    assert set(pictures["plain"].facts["identity"]) == usual
    assert pictures["end"].facts["identity"]["end_step"] == 1
    assert pictures["schedule"].facts["identity"]["schedule"] == "0:1,1:0.4"
    assert set(pictures["double"].facts["identity"]) == {*usual, "weight_double", "weight_single"}


@pytest.mark.parametrize(
    ("flags", "same"),
    [
        (("--id-start-step", "0.5"), ("--id-start-step", 1)),
        (("--id-end-step", "0.5"), ("--id-end-step", 1)),
        (("--id-end-step", "1.0"), ()),
        (("--id-weight-schedule", "0:1,0.5:0.4"), ("--id-weight-schedule", "0:1,1:0.4")),
        (("--id-weight-schedule", "0:1"), ()),
    ],
)
def test_equal_inputs_give_equal_files_however_they_are_written(draw, me, flags, same):
    assert draw(*me, *flags).data == draw(*me, *same).data


@pytest.mark.parametrize(
    "flags",
    [
        ("--pulid-id-weight", 0),
        ("--id-weight-schedule", "0:0"),
        ("--id-weight-double", 0, "--id-weight-single", 0),
        ("--id-start-step", 1, "--id-weight-schedule", "0:1,1:0"),
        "identity",
        "regions",
    ],
    ids=str,
)
def test_weight_zero_is_the_file_without_pulid(draw, kept, me, flags):
    zero = {
        "identity": people(kept, f"{kept.me},weight=0"),
        "regions": people(kept, f"{kept.me},{LEFT},weight=0", f"{kept.you},{RIGHT},weight=0"),
    }
    flags = zero[flags] if isinstance(flags, str) else (*me, *flags)
    assert draw(*flags).data == draw().data
    assert draw(*me).data != draw().data


def test_verify_takes_people(generate, kept):
    two = people(kept, f"{kept.me},{LEFT}", f"{kept.you},{RIGHT}")
    result = generate("verify", *kept.base, *two, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["passed"] is True
    nobody = people(kept, f"{kept.me},{LEFT},weight=0", f"{kept.you},{RIGHT},weight=0")
    assert "C equals A" in generate("verify", *kept.base, *nobody).error


# --------------------------------------------------------------------------- guidance and schedules

SLG = ("--slg-scale", 1.5, "--skip-layer-start", 0, "--skip-layer-end", 1)


def test_skipped_layers_together_with_an_identity(draw, kept, me):
    few = (*SLG, "--skip-layers", "[3,8]")
    pictures = {
        "plain": draw(*me),
        "slg": draw(*me, *few),
        "other layers": draw(*me, *SLG, "--skip-layers", "2,9"),
        "default layers": draw(*me, *SLG),
        "stronger": draw(*me, *few, "--slg-scale", 3),
        "with cfg": draw(*me, *few, "--cfg-scale", 2, "-n", "blurry"),
        "nobody": draw(*few),
    }
    differ(pictures)
    assert pictures["slg"].facts["skip_layers"] == {
        "layers": [3, 8],
        "scale": 1.5,
        "steps": [0, 1],
    }
    assert draw(*me, *few, "--pulid-id-weight", 0).data == pictures["nobody"].data


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--slg-scale", 1), "no step of 2 lies between them"),
        ((*SLG, "--skip-layers", "57"), "57"),
        ((*SLG, "--skip-layers", "a"), "expected block numbers"),
        (("--slg-scale", "nan"), "slg-scale nan"),
    ],
)
def test_skip_layer_guidance_is_used_or_the_program_fails(generate, kept, flags, message):
    assert message in generate(*kept.base, *flags, "-o", kept.folder / "never.png").usage_error
    assert not (kept.folder / "never.png").exists()


def test_samplers_and_schedules(draw):
    few = ("--steps", 3)
    methods = ("euler", "heun", "dpm++2m", "unipc", "euler_a", "lcm")
    pictures = {name: draw(*few, "--sampling-method", name) for name in methods}
    differ(pictures)
    assert "sampling_method" not in pictures["euler"].facts
    assert pictures["heun"].facts["sampling_method"] == "heun"
    assert pictures["lcm"].facts["sigmas"] != pictures["euler"].facts["sigmas"]  # its own schedule
    eta = draw(*few, "--sampling-method", "euler_a", "--eta", 0.5)
    assert not eta.same_pixels(pictures["euler_a"])
    assert eta.facts["eta"] == 0.5
    schedules = ("flux", "sdcpp", "simple", "karras", "exponential", "beta")
    drawn = {name: draw(*few, "--scheduler", name) for name in schedules}
    differ(drawn)
    assert drawn["flux"].data == pictures["euler"].data


def test_sdcpp_is_sd_clis_default_schedule(draw):
    """src/runtime/denoiser.hpp: mu linear in (H/8)(W/8) from 0.5 at 256 to 1.15 at 4096, schnell
    too.
    """
    mu = 0.5 + (WIDTH // 8 * HEIGHT // 8 - 256) * (1.15 - 0.5) / (4096 - 256)
    times = [np.exp(mu) / (np.exp(mu) + 1 / t - 1) if t else 0 for t in np.linspace(1, 0, 4)]
    assert draw("--steps", 3, "--scheduler", "sdcpp").facts["sigmas"] == pytest.approx(
        times, abs=1e-6
    )


# ----------------------------------------------------------------------------------------- metadata


def test_flags_without_effect_leave_every_byte_and_are_named(draw, kept, tmp_path):
    lora = write_lora(kept.folder / "idle.safetensors")
    named = {
        "--guidance": 9,
        "--negative-prompt": "blurry",
        "--cfg-start-step": 1,
        "--skip-layers": "1,2",
        "--skip-layer-end": 0.9,
        "--eta": 0.5,
        "--vae-tile-size": "8x8",
        "--vae-tile-overlap": 0.1,
        "--negative-id": "same",
        "--max-vram": 4,
        "--identity-fusion": "mean",
        "--output-begin-idx": 5,
        "--params-backend": "te=cpu",
        "--weight-cache": 1,
    }
    alone = ("--vae-on-cpu", "--clip-on-cpu", "--offload-to-cpu", "--dequantize", "--fa")
    silent = (
        "--backend",
        "cpu",
        "--lora",
        f"{lora}:0",
        "--lora-model-dir",
        kept.folder,
        "--verbose",
    )
    idle = draw(*(part for pair in named.items() for part in pair), *alone, *silent)
    assert idle.data == draw().data
    notes = [line.split()[1] for line in idle.run.err.splitlines() if line.startswith("note: ")]
    assert sorted(notes) == sorted([*named, *alone])
    assert "note:" not in draw().run.err


def test_metadata_names_what_was_effective(draw, kept, me):
    lora = write_lora(kept.folder / "style.safetensors")
    plain = set(draw().facts)
    table = {
        "identity": me,
        "loras": ("--lora", f"{lora}:0.5"),
        "skip_layers": SLG,
        "vae_tiling": ("--vae-tiling", "--vae-tile-size", "4x4"),
        "prompt_weights": ("--prompt-weights",),
        "sampling_method": ("--steps", 3, "--sampling-method", "heun"),
    }
    for key, flags in table.items():
        assert set(draw(*flags).facts) - plain == {key}
    cfg = set(draw("--cfg-scale", 2, "-n", "blurry").facts) - plain
    assert cfg == {"cfg_scale", "cfg_start_step", "negative_prompt"}
    for key in (*table, *cfg, "guidance", "init_image", "eta", "strength"):
        assert key not in plain


def test_the_text_can_be_read_out_of_every_format(draw):
    from pulid_generate.pictures.picture import read_parameters

    texts, formats = set(), {}
    for suffix in (".png", ".webp", ".jpg", ".JPEG"):
        picture = draw(suffix=suffix)
        texts.add(read_parameters(picture.data))
        formats[suffix] = Image.open(io.BytesIO(picture.data)).format
        assert np.abs(picture.pixels.astype(int) - draw().pixels).mean() < 6
    assert len(texts) == 1
    assert formats == {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".JPEG": "JPEG"}
    assert draw(suffix=".webp").same_pixels(draw())  # lossless
