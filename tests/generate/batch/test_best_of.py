"""pulid-generate --best-of N: the most alike of N seeds is the file that its seed alone would be,
and the others are told.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pulid_generate.batch.best_of import best_of
from pulid_generate.pictures.score_lines import Score
from pulid_generate.pipeline.denoiser import Denoiser

# seed 42: 0.1, 43: 0.6, 44: no face; the reference itself 1
SCORES = """
for picture in pictures:
    seed = picture.rsplit(".", 1)[0][-2:]
    faceless() if seed == "44" else likeness({"42": 0.1, "43": 0.6}.get(seed, 1.0))
"""
NO_FACES = "for picture in pictures: likeness(1.0) if picture.endswith('me.png') else faceless()"


@pytest.fixture
def flags(kept, tmp_path):
    Image.new("RGB", (64, 48), (200, 10, 10)).save(tmp_path / "me.png")
    return (
        *kept.base,
        *kept.pulid,
        "--pulid-id-embedding",
        kept.me,
        "--best-of",
        3,
        "--reference",
        tmp_path / "me.png",
    )


def alone(generate, kept, path, seed, *more) -> bytes:
    done = generate(
        *kept.base, *kept.pulid, "--pulid-id-embedding", kept.me, "--seed", seed, *more, "-o", path
    )
    assert done.code == 0, done.err
    return path.read_bytes()


@pytest.mark.parametrize("more", [(), ("-i", "start.png", "--strength", 0.6, "--steps", 3)])
def test_the_kept_file_is_what_its_seed_alone_draws(
    more, generate, kept, flags, fake, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save("start.png")
    fake(SCORES)
    done = generate(*flags, *more, "-o", tmp_path / "best.png")
    assert done.code == 0, done.err
    best = (tmp_path / "best.png").read_bytes()
    assert best == alone(generate, kept, tmp_path / "alone.png", 43, *more)
    assert best != alone(generate, kept, tmp_path / "other.png", 42, *more)
    assert done.out.decode() == f"{tmp_path / 'best.png'}\n"
    assert [line for line in done.err.splitlines() if line.startswith("seed")] == [
        *("seed 43: 0.600 (kept)", "seed 42: 0.100", "seed 44: no face"),
    ]
    assert sorted(path.name for path in tmp_path.glob("*best*")) == ["best.png"]


def test_standard_output_json_and_the_others(generate, kept, flags, fake, tmp_path):
    fake(SCORES)
    piped = generate(*flags, "-q", "-o", "-")
    assert (piped.code, piped.err) == (0, "")
    assert piped.out == alone(generate, kept, tmp_path / "43.png", 43)
    done = generate(
        *flags, "-o", tmp_path / "a.jpg", "--json", "--keep-others", tmp_path / "others"
    )
    assert done.code == 0, done.err
    line = json.loads(done.out)
    assert (line["seed"], line["likeness"], line["output"]) == (43, 0.6, str(tmp_path / "a.jpg"))
    told = [(score["seed"], score["status"], score["likeness"]) for score in line["best_of"]]
    assert told == [(42, "ok", 0.1), (43, "ok", 0.6), (44, "no face", None)]
    assert sorted(path.name for path in (tmp_path / "others").iterdir()) == ["a_42.jpg", "a_44.jpg"]
    assert (tmp_path / "others" / "a_44.jpg").read_bytes() == alone(
        generate, kept, tmp_path / "44.jpg", 44
    )
    assert (tmp_path / "a.jpg").read_bytes() == alone(generate, kept, tmp_path / "43.jpg", 43)


def test_no_face_at_all_writes_nothing(generate, flags, fake, tmp_path):
    fake(NO_FACES)
    (tmp_path / "best.png").write_bytes(b"as before")
    done = generate(*flags, "-o", tmp_path / "best.png", "--keep-others", tmp_path / "others")
    assert "none of 3 pictures has a face to compare" in done.error
    assert (done.out, (tmp_path / "best.png").read_bytes()) == (b"", b"as before")
    assert len(list((tmp_path / "others").iterdir())) == 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "say('pulid-extract: error: me.png: no face found in this reference'); sys.exit(1)",
            "no face found in this reference",
        ),
        ("os.kill(os.getpid(), 9)", "killed by signal 9"),
    ],
)
def test_nothing_is_drawn_if_nothing_can_be_compared(
    body, message, generate, flags, fake, tmp_path, monkeypatch
):
    fake(body)
    drawn = []
    monkeypatch.setattr(Denoiser, "latents", lambda *arguments, **more: drawn.append(1))
    assert message in generate(*flags, "-o", tmp_path / "best.png").error
    assert drawn == []
    fake(SCORES)
    with pytest.raises(TypeError):  # with scores it goes on to draw, which gives None here
        generate(*flags, "-o", tmp_path / "best.png")
    assert drawn == [1]


def test_the_reference_is_not_overwritten(generate, flags, fake, tmp_path):
    fake(SCORES)
    assert "is read as an input" in generate(*flags, "-o", tmp_path / "me.png").error
    (tmp_path / "best_44.png").write_bytes((tmp_path / "me.png").read_bytes())
    more = (
        "--reference",
        tmp_path / "best_44.png",
        "-o",
        tmp_path / "best.png",
        "--keep-others",
        tmp_path,
    )
    assert "best_44.png: is read as an input" in generate(*flags, *more).error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--best-of", 3), "--best-of needs '--reference'"),
        (("--reference", "me.png"), "--reference needs '--best-of'"),
        (("--keep-others", "others"), "--keep-others needs '--best-of'"),
        (("--det-threshold", 0.4), "--det-threshold needs '--best-of'"),
        (("--best-of", 3, "--reference", "me.png", "-b", 2), "leave --batch-count out"),
        (("--best-of", 1, "--reference", "me.png"), "--best-of"),
    ],
)
def test_wrong_usage(flags, message, generate):
    done = generate("-p", "a cat", *flags)
    assert done.code == 2
    assert message in done.err


def test_the_first_of_equals_and_a_negative_cosine_is_better_than_no_face():
    assert best_of([Score("ok", 0.2), Score("ok", 0.5), Score("ok", 0.5)]) == 1
    assert best_of([Score("no face"), Score("ok", -0.2), Score("failed")]) == 1
    assert best_of([Score("ok", 0.0), Score("ok", -0.2)]) == 0
    assert best_of([Score("no face")]) is None
