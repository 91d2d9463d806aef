"""`pulid-generate detail` and --ad-model as commands: what is read, written and refused. Faces come
from a program that finds what it is told to.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from support.models.micro_flags import model_flags, pulid_flags
from support.pictures.picture_files import gradient

from pulid_generate.pictures.description import parse_description
from pulid_generate.pictures.picture import read_parameters

BOX = (20, 10, 20, 20)
# answers each task with one face at BOX
FINDER = f"""
for line in sys.stdin:
    task = json.loads(line)
    face = {{"box": {list(BOX)}, "score": 0.9, "likeness": {{n: 0.5 for n in task["people"]}}}}
    print(json.dumps({{"status": "done", "faces": [face]}}), flush=True)
"""


@pytest.fixture
def base(micro, fake):
    fake(FINDER)
    return (*model_flags(micro), "--steps", 2, "--strength", 0.7)


@pytest.fixture
def me(micro, person):
    return *pulid_flags(micro), "--pulid-id-embedding", person


def save(path, height=50, width=75):
    """Sides that are no multiples of 16."""
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(gradient(height, width)).save(path)
    return path


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_a_face_of_a_picture_is_redrawn(generate, base, me, tmp_path):
    photo, out = save(tmp_path / "photo.png"), tmp_path / "out.png"
    run = generate("detail", photo, *base, *me, "-p", "a cat", "-o", out, "--json")
    assert run.code == 0, run.err
    line = json.loads(run.out)
    assert (line["output"], line["width"], line["height"]) == (str(out), 75, 50)
    changed = (pixels(out) != pixels(photo)).any(-1)
    assert changed[10:30, 20:40].any()
    assert not changed[:, 60:].any()
    facts = parse_description(read_parameters(out.read_bytes()))
    assert facts["picture"]["width"] == 75
    assert facts["detail"]["denoising_strength"] == 0.7
    assert facts["identity"]["sha256"] == line["identities"][0]
    # a picture that pulid-generate drew brings its own prompt
    again = tmp_path / "again.png"
    assert generate("detail", out, *base, *me, "-o", again).code == 0
    assert parse_description(read_parameters(again.read_bytes()))["prompt"] == "a cat"


def test_a_folder_and_one_that_fails(generate, base, me, tmp_path):
    for name in ("a.png", "b.bmp"):
        save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    run = generate(
        *("detail", tmp_path / "photos", *base, *me, "--output-dir", tmp_path / "mended"), "-p", "x"
    )
    assert run.code == 1
    assert "broken.png" in run.err
    assert "1 of 3 pictures failed" in run.err
    assert sorted(path.name for path in (tmp_path / "mended").iterdir()) == ["a.png", "b.png"]


def test_nobody_is_said(generate, base, tmp_path):
    run = generate("detail", save(tmp_path / "a.png"), *base, "-o", tmp_path / "o.png")
    assert run.code == 0
    assert "nobody is named: every face is redrawn from the prompt alone" in run.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("-i", "a.png"), "--init-img is about a picture that is drawn anew"),
        (("--batch-count", 2), "--batch-count is about a picture that is drawn anew"),
        (("-o", "o.png", "--output-dir", "o"), "both say where it goes"),
        (("-o", "-"), "--output is a file here"),
        (("-o", "a.png"), "a.png"),
        (("-o", "o.txt"), "the suffix .txt"),
        (("b.png", "-o", "o.png"), "2 pictures: give --output-dir FOLDER"),
        (("empty", "-o", "o.png"), "empty: holds no picture"),
        (("nowhere.png", "--output-dir", "out"), "nowhere.png: no such file"),
        (("sub/a.png", "--output-dir", "out"), "would be written to"),
        (("--ad-model", "yolo.pt"), "ad-model yolo.pt: YOLO detectors are not read here"),
        (("--ad-model", "nowhere"), "ad-model nowhere: no such folder"),
        (("--extra-ad-args", "merge_masks=1"), "each face is redrawn with its own person"),
    ],
)
def test_what_cannot_be_done_is_one_line(generate, base, me, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "sub/a.png"):
        save(tmp_path / name)
    (tmp_path / "empty").mkdir()
    before = (tmp_path / "a.png").read_bytes()
    run = generate("detail", "a.png", *base, *me, *flags)
    assert run.code in (1, 2)
    assert message in run.err
    assert "Traceback" not in run.err
    assert (tmp_path / "a.png").read_bytes() == before


def test_several_people_are_told_apart_or_refused(generate, base, micro, person, tmp_path):
    other = tmp_path / "you.pulidembd"
    other.write_bytes(person.read_bytes())
    people = ("--identity", person, "--identity", other, *pulid_flags(micro))
    run = generate("detail", save(tmp_path / "a.png"), *base, *people, "-o", tmp_path / "o.png")
    assert "of several people each has a region, or a --reference" in run.refusal
    named = []
    for stem in (person.stem, "you"):
        named += ["--reference", save(tmp_path / "faces" / f"{stem}.png")]
    assert (
        generate(
            *("detail", tmp_path / "a.png", *base, *people, *named, "-o", tmp_path / "o.png")
        ).code
        == 0
    )


def test_a_drawn_picture_has_the_pass_too(generate, base, me, tmp_path):
    place = base.index("--strength")
    drawing = (*base[:place], *me, "-p", "a cat", "-W", 64, "-H", 48)
    plain, detailed = tmp_path / "plain.png", tmp_path / "detailed.png"
    assert generate(*drawing, "-o", plain).code == 0
    assert generate(*drawing, "--ad-model", "antelopev2", "-o", detailed).code == 0
    assert not np.array_equal(pixels(plain), pixels(detailed))
    assert np.array_equal(pixels(plain)[:, 54:], pixels(detailed)[:, 54:])
    assert "--ad-prompt needs '--ad-model'" in generate(*drawing, "--ad-prompt", "x").err
    refused = generate(*drawing, "--ad-model", "face_yolov8n.pt", "-o", tmp_path / "no.png")
    assert "YOLO detectors are not read here" in refused.refusal
    idle = generate(
        *(*drawing, "--ad-model", "antelopev2", "--extra-ad-args", "nms=0.5", "-o", detailed)
    )
    assert "nms has no effect" in idle.err
