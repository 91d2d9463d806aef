"""Pictures whose steps are cached, through the command: alone, many at once, from a picture, with
true CFG.
"""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image
from support.distances import pixels
from support.models.micro_flags import model_flags, pulid_flags

from pulid_generate.pictures.description import parse_description

SIZE = ("-W", 64, "-H", 48, "--steps", 8)
EASY = ("--cache-mode", "easycache", "--cache-option", "threshold=5,start=0,end=1")
BLOCKS = ("--cache-option", "Fn=2,warmup=3")
MODES = {
    "easycache": EASY,
    "dbcache": ("--cache-mode", "dbcache", *BLOCKS[:1], BLOCKS[1] + ",threshold=0.9"),
    "taylorseer": ("--cache-mode", "taylorseer", *BLOCKS),
    "cache-dit": (
        "--cache-mode",
        "cache-dit",
        *BLOCKS,
        "--scm-policy",
        "static",
        "--scm-mask",
        "1,1,1,0,1,0,0,1",
    ),
}


@pytest.fixture
def base(micro, person):
    return (
        *model_flags(micro),
        *pulid_flags(micro),
        *("--pulid-id-embedding", person),
        *("--negative-id", "same", "-p", "a photo of a cat", *SIZE),
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_says_how_it_was_cached_and_how_much(generate, base, tmp_path, mode):
    out, plain = tmp_path / "cached.png", tmp_path / "plain.png"
    result = generate(*base, *MODES[mode], "-o", out, "-v")
    assert result.code == 0, result.err
    told = [line for line in result.err.splitlines() if "reused what others computed" in line]
    assert len(told) == 1
    reused, asked = _counts(told[0])
    assert asked == 8
    assert 2 <= reused <= 6
    assert parse_description(Image.open(out).text["parameters"])["step_cache"]["mode"] == mode
    generate(*base, "-o", plain)
    assert "step_cache" not in Image.open(plain).text["parameters"]
    assert not np.array_equal(pixels(out), pixels(plain))


def _counts(line: str) -> tuple[int, int]:
    words = line.split()
    middle = words.index("of")
    return int(words[middle - 1]), int(words[middle + 1])


def test_each_picture_is_what_it_is_alone(generate, base, tmp_path):
    """Several seeds, a batch of two, and from a picture with true CFG."""
    cached = (*base, *MODES["dbcache"])
    assert generate(*cached, "-s", 5, "-b", 2, "-o", tmp_path / "many.png").code == 0
    assert generate(*cached, "-s", 6, "-o", tmp_path / "alone.png").code == 0
    alone = (tmp_path / "alone.png").read_bytes()
    assert (tmp_path / "many_1.png").read_bytes() == alone
    start = ("-i", tmp_path / "alone.png", "--strength", 0.6, "--cfg-scale", 2)
    result = generate(*cached, *start, "-n", "fog", "-o", tmp_path / "from.png", "-v")
    assert result.code == 0, result.err
    assert "of 10 forwards" in result.err  # five steps, two branches
    rows = [{"seed": 5}, {"seed": 6}, {"seed": 6, "cache_mode": None}]
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = generate(
        "batch", manifest, *cached, "--batch-size", 2, "--output-dir", tmp_path / "out"
    )
    assert result.code == 0, result.err
    assert "--batch-size has no effect: with --cache-mode each picture is drawn alone" in result.err
    written = sorted((tmp_path / "out").iterdir())
    assert alone in [path.read_bytes() for path in written]
    assert len({path.read_bytes() for path in written}) == 3


# Options -> how many of eight are computed because of it
CHANGES = (
    ({}, 0),
    ({"id_start_step": 5}, 1),
    ({"id_end_step": 4}, 1),
    ({"id_weight_schedule": "0:1,4:0.5,6:1"}, 2),
    ({"id_weight_schedule": "0:1,5:1"}, 0),
    # what is computed without some layers is no forward of the cache's, nor forgets anything
    ({"slg_scale": 1.5, "skip_layer_start": 0.2, "skip_layer_end": 0.8}, 0),
)
# Two steps are computed, and then none that need not be
ALWAYS = {"easycache": "threshold=1000,start=0,end=1", "dbcache": "Fn=2,warmup=2,threshold=1000"}


def test_a_change_of_the_person_is_computed_at_its_step(generate, base, tmp_path):
    rows, expected = [], []
    for mode, option in ALWAYS.items():
        for change, more in CHANGES:
            rows.append({"cache_mode": mode, "cache_option": option, **change})
            # easycache knows how fast things change only after two computed steps
            expected.append(6 - more * (2 if mode == "easycache" else 1))
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = generate("batch", manifest, *base, "--output-dir", tmp_path, "-v")
    assert result.code == 0, result.err
    told = re.findall(r"row (\d+): (\d+) of 8 forwards reused", result.err)
    found = {int(row): int(reused) for row, reused in told}
    assert [found[row] for row in range(1, len(rows) + 1)] == expected


def test_weight_nothing_with_a_late_start_is_nobody(generate, base, tmp_path):
    cached = (*base, *MODES["cache-dit"], "--pulid-id-weight", 0)
    assert generate(*cached, "-o", tmp_path / "a.png").code == 0
    late = ("--id-start-step", 4, "-o", tmp_path / "b.png")
    assert generate(*cached, *late).code == 0
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))


def test_refusals_and_flags_without_effect(generate, base, tmp_path):
    out = ("-o", tmp_path / "no.png")
    result = generate(*base, "--cache-mode", "ucache", *out)
    assert result.code == 2
    assert "cache-mode ucache: is for UNets" in result.err
    line = generate(*base, "--cache-mode", "dbcache", "--cache-option", "Fn=9,Bn=1", *out).refusal
    assert "has 10 blocks, so none would be left" in line
    line = generate(*base, "--cache-mode", "dbcache", *BLOCKS, "--scm-mask", "1,0", *out).refusal
    assert "has 2 numbers for 8 steps" in line
    assert not (tmp_path / "no.png").exists()
    result = generate(*base, "--scm-mask", "1,0", *out)
    assert result.code == 0
    assert "--scm-mask has no effect: --cache-mode is not given" in result.err


def test_a_cache_that_reuses_nothing_is_said_once(generate, base, tmp_path):
    few = (*base, "--steps", 4, "-b", 2, "-o", tmp_path / "few.png")
    result = generate(*few, "--cache-mode", "dbcache", "--cache-option", "Fn=1")
    assert result.code == 0
    told = [line for line in result.err.splitlines() if "reused nothing" in line]
    assert len(told) == 1
    assert "--cache-mode dbcache reused nothing: all of 4 steps are in its warm-up of 8" in told[0]
    strict = "Fn=1,warmup=2,threshold=1e-6"
    result = generate(*few, "--cache-mode", "dbcache", "--cache-option", strict)
    assert "every step differed too much" in result.err
    result = generate(
        *few, "--cache-mode", "dbcache", "--cache-option", "Fn=1,warmup=2,threshold=9"
    )
    assert "reused nothing" not in result.err
