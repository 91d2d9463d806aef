"""`pulid-extract score`: cosines of faces, whose network says so, and when the exit code is 1."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.models.portrait_models import models_folder, write_projection
from support.pictures.coloured_faces import GREEN, RED, picture
from support.programs.commands import run_plainly

from pulid_extract import encode_embedding
from pulid_extract.faces import score_report, scorer
from pulid_extract.faces.recognizer import Recognizer
from pulid_extract.faces.scoring import (
    Comparison,
    Score,
)
from pulid_extract.shared.errors import FaceError, WeightsError

PICTURES = {
    "me": ((2, 2, RED),),
    "again": ((2, 2, RED), (15, 6, GREEN)),  # the same pixels around the face, and somebody smaller
    "other": ((9, 10, GREEN),),
    "nobody": (),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name, patches in PICTURES.items():
        Image.fromarray(picture(*patches)).save(folder / f"{name}.png")
    return folder


def run(capfd, monkeypatch, photos, *arguments, stdin: bytes = b"") -> tuple[int, str, str]:
    monkeypatch.chdir(photos)
    return run_plainly(capfd, monkeypatch, "score", *arguments, stdin=stdin)


@functools.cache
def extractor():
    from pulid_extract.extraction.extractor import Extractor

    return Extractor.load(models_dir=models_folder(), device="cpu", roles=("antelopev2",))


def test_the_vector_is_the_extractions(photos):
    image = picture(*PICTURES["again"])
    recognizer = Recognizer.of_pack(models_folder() / "antelopev2")
    (first, *_) = extractor().detect(image)
    assert recognizer.name == "glintr100.onnx"
    bgr = np.ascontiguousarray(image[..., ::-1])
    want = extractor()._antelope.embed(bgr, first)
    np.testing.assert_allclose(recognizer.embed(bgr, first.landmarks), want, rtol=1e-5, atol=1e-4)
    with pytest.raises(FaceError, match="on top of each other"):
        recognizer.embed(image, np.full((5, 2), np.nan, np.float32))
    assert first.score > 0.9


def test_a_table_with_a_stranger(photos, capfd, monkeypatch):
    code, out, err = run(
        capfd,
        monkeypatch,
        photos,
        "--reference",
        "me.png",
        "--stranger",
        "other.png",
        "me.png",
        "again.png",
        "other.png",
        "nobody.png",
    )
    assert code == 0
    sha = Recognizer.of_pack(models_folder() / "antelopev2").sha256
    head, columns, me, again, other, nobody = out.splitlines()
    assert head == (
        f"likeness: ArcFace cosine to the reference by glintr100.onnx (sha256 {sha[:12]}, which "
        "PuLID is conditioned on)"
    )
    assert columns.split() == ["likeness", "best", "stranger", "faces", "picture"]
    assert me.split()[:2] == ["1.000", "1.000"]
    assert me.split()[3:] == ["1", "me.png"]
    assert again.split()[0] == "1.000"  # the most alike of two, not the stranger beside
    assert again.split()[3] == "2"
    assert float(other.split()[0]) < 0.5
    assert other.split()[2] == "1.000"
    assert nobody.split()[:3] == ["no", "face", "0"]
    assert "4 pictures: mean_likeness" in err
    assert "1 without a face, which counts 0" in err
    assert "--recognizer takes an independent one" in err
    assert "stranger is as like as the reference in 1 of 3 pictures" in err


def test_json_and_a_face_by_order(photos, capfd, monkeypatch):
    arguments = (
        "--reference",
        "me.png",
        "--reference",
        "other.png",
        "--json",
        "again.png",
        "nobody.png",
    )
    code, out, _ = run(capfd, monkeypatch, photos, *arguments, "--face-order", "right")
    assert code == 0
    found, nobody = map(json.loads, out.splitlines())
    assert found["status"] == "ok"
    assert found["face"] == 0
    assert found["box"][0] > 400  # the right one
    assert found["likeness"] == pytest.approx(np.mean(found["cosines"]), abs=1e-4)
    assert found["cosine"] == found["likeness"]
    assert set(found["pose"]) == {"yaw", "pitch", "roll"}
    assert (found["truth"], found["copy_paste"], found["prompt_score"]) == (None, None, None)
    assert found["best"] == max(found["cosines"])
    assert len(found["cosines"]) == 2
    assert found["recognizer"]["name"] == "glintr100.onnx"
    assert len(found["recognizer"]["sha256"]) == 64
    assert (nobody["status"], nobody["likeness"], nobody["cosines"]) == ("no face", None, [])
    best = json.loads(run(capfd, monkeypatch, photos, *arguments)[1].splitlines()[0])
    assert best["box"][0] < 100
    assert best["likeness"] > found["likeness"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("me.png", "again.png", "--min", "0.9", "--min-mean", "0.9"), 0, ""),
        (("me.png", "other.png", "--min", "0.9"), 1, "1 of 2 pictures below --min 0.9"),
        (
            ("me.png", "nobody.png", "--min", "0.1"),
            1,
            "1 of 2 pictures below --min 0.1, or without a face",
        ),
        (("me.png", "other.png", "--min-mean", "0.9"), 1, "below --min-mean 0.9"),
        (
            ("nobody.png", "--min-mean", "0.1"),
            1,
            "mean_likeness is 0.000, below --min-mean 0.1",
        ),
        (("broken.png", "--min-mean", "-1"), 1, "so there is no mean for --min-mean -1"),
        (("me.png", "--require", "mean_likeness>=0.9", "--require", "with_face>=1"), 0, ""),
        (
            ("me.png", "nobody.png", "--require", "with_face>=0.5,lowest_likeness>0"),
            1,
            "lowest_likeness is 0.000, required lowest_likeness>0",
        ),
        (("me.png", "broken.png"), 1, "1 of 2 pictures cannot be read"),
    ],
)
def test_exit_codes_for_ci(arguments, code, message, photos, capfd, monkeypatch):
    (photos / "broken.png").write_bytes(b"no picture")
    ended, out, err = run(capfd, monkeypatch, photos, "--reference", "me.png", *arguments)
    assert ended == code
    assert message in err.splitlines()[-1]
    # all are scored before it fails
    assert len(out.splitlines()) == 2 + sum(name.endswith(".png") for name in arguments)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("--reference", "me.pulidembd", "me.png"),
            1,
            "holds identity tokens and no face vector; give the picture it was made from",
        ),
        (("--reference", "nobody.png", "me.png"), 1, "nobody.png: no face found in this reference"),
        (
            ("--reference", "me.png", "--stranger", "nobody.png", "me.png"),
            1,
            "no face found in this stranger",
        ),
        (
            ("--reference", "me.png", "--recognizer", "none.onnx", "me.png"),
            1,
            "none.onnx: cannot be read",
        ),
        (
            ("--reference", "me.png", "--recognizer", "me.png", "me.png"),
            1,
            "me.png: onnxruntime cannot open it",
        ),
        (
            ("--reference", "me.png", "--sheet", "me.png", "me.png"),
            1,
            "--sheet would overwrite an input",
        ),
        (("--reference", "-", "-"), 2, "standard input holds one picture"),
        (("me.png",), 2, "--reference"),
        (("me.png", "--prompt", "a cat", "--min", "0.5"), 2, "--min is about faces"),
        (
            ("--reference", "me.png", "me.png", "--require", "prompt>=-1"),
            2,
            "--require prompt: expected one of mean_likeness,",
        ),
        (
            ("--reference", "me.png", "me.png", "--require", "copy_paste<=0.2"),
            2,
            "--require copy_paste<=0.2: has no value without --truth",
        ),
        (("me.png", "--prompt", "a cat", "--det-threshold", "0.4"), 2, "is about faces"),
        (("me.png", "--prompt", "a cat", "--antelopev2", "x"), 2, "is about faces"),
        (("me.png", "--prompt", " "), 2, "--prompt is empty"),
        (("--reference", "me.png", "me.png", "--prompt-judge", "a.onnx"), 2, "give one of them"),
        (("--reference", "me.png", "me.png", "--eva-clip", "a.pt"), 2, "give one of them"),
        (
            ("--reference", "me.png", "me.png", "--prompt", "a", "--prompts", "b"),
            2,
            "--prompt is for all pictures, --prompts for each",
        ),
        (
            ("--reference", "me.png", "--truth", "again.png", "me.png"),
            1,
            "--truth again.png: is the photograph me.png itself (0.0 degrees apart)",
        ),
        (
            ("--reference", "me.png", "me.png", *("--recognizer", "antelopev2") * 2),
            1,
            "glintr100.onnx is there twice",
        ),
        (("me.png", "--prompt", "a cat"), 1, "eva.pt: holds no text tower"),
        (("me.png", "--prompt", "a", "--prompt-judge", "me.png"), 1, "expected a CLIP as .onnx"),
        (("--reference", "me.png"), 2, "IMAGES"),
    ],
)
def test_what_cannot_be_scored_is_one_line(arguments, code, message, photos, capfd, monkeypatch):
    (photos / "me.pulidembd").write_bytes(encode_embedding(np.ones((32, 2048), np.float32)))
    ended, out, err = run(capfd, monkeypatch, photos, *arguments)
    assert (ended, out) == (code, "")
    assert message in err


def test_settings_of_faces_do_not_forbid_a_prompt_alone(photos, capfd, monkeypatch):
    (photos / "pulid.toml").write_text('[extract]\nface-order = "left"\neva-clip = "eva.pt"\n')
    try:
        arguments = ("--prompt", "a cat", "me.png", "--eva-clip", models_folder() / "eva.pt")
        code, _, err = run(capfd, monkeypatch, photos, *arguments)
        assert (code, "holds no text tower" in err) == (1, True)
        assert run(capfd, monkeypatch, photos, "--reference", "me.png", "me.png")[0] == 0
    finally:
        (photos / "pulid.toml").unlink()


def test_standard_input_and_a_stranger_who_is_none(photos, capfd, monkeypatch):
    code, out, err = run(
        capfd,
        monkeypatch,
        photos,
        *("--reference", "me.png", "--stranger", "again.png", "-", "--json"),
        stdin=(photos / "me.png").read_bytes(),
    )
    assert code == 0
    assert json.loads(out)["likeness"] == 1.0
    assert "the stranger is like the reference (cosine 1.00)" in err
    assert "again.png: 2 faces, the largest is the stranger" in err


def test_another_recogniser_says_its_name_and_another_number(photos, tmp_path, capfd, monkeypatch):
    own, wrong = tmp_path / "own.onnx", tmp_path / "wrong.onnx"
    write_projection(own, 112, 64)
    write_projection(wrong, 192, 64)
    numbers = []
    for more in ((), ("--recognizer", own)):
        _, out, err = run(
            capfd, monkeypatch, photos, "--reference", "me.png", "--json", "other.png", *more
        )
        numbers.append(json.loads(out))
    assert numbers[1]["recognizer"] == {
        "name": "own.onnx",
        "sha256": Recognizer(own).sha256,
        "own": False,
    }
    assert numbers[0]["recognizer"]["own"] is True
    assert numbers[0]["likeness"] != numbers[1]["likeness"]
    assert "independent" not in err
    with pytest.raises(
        WeightsError, match=r"takes 1 of \?x3x192x192 and gives 1; an ArcFace-shaped recogniser"
    ):
        Recognizer(wrong)
    with pytest.raises(WeightsError, match="no ArcFace network"):
        Recognizer.of_pack(photos)


def test_mean_and_scale_follow_the_graph(tmp_path):
    """insightface's rule: a graph that begins with Sub and Mul normalises by itself."""
    import onnx

    plain, own = tmp_path / "plain.onnx", tmp_path / "own.onnx"
    write_projection(plain, 112, 64)
    model = onnx.load(plain)
    for node, name in zip(model.graph.node, ("Sub_0", "Mul_1"), strict=False):
        node.name = name
    onnx.save(model, own)
    assert (Recognizer(plain)._model.input_mean, Recognizer(plain)._model.input_std) == (
        127.5,
        127.5,
    )
    assert (Recognizer(own)._model.input_mean, Recognizer(own)._model.input_std) == (0.0, 1.0)


def test_a_contact_sheet(photos, tmp_path, capfd, monkeypatch):
    sheet = tmp_path / "sheet.png"
    code, _, _ = run(
        capfd,
        monkeypatch,
        photos,
        "--reference",
        "me.png",
        "other.png",
        "nobody.png",
        "me.png",
        "--sheet",
        sheet,
        "--stranger",
        "other.png",
    )
    assert code == 0
    image = Image.open(sheet)
    assert image.height > 2 * scorer.TILE
    assert image.width > 3 * scorer.TILE
    assert str(photos).encode() not in sheet.read_bytes()
    code, out, err = run(
        capfd,
        monkeypatch,
        photos,
        "--reference",
        "me.png",
        *["me.png"] * (score_report.MAX_ON_A_SHEET + 1),
        "--sheet",
        tmp_path / "b.png",
    )
    assert (code, out) == (1, "")
    assert f"a sheet holds {score_report.MAX_ON_A_SHEET}" in err


def test_the_sheet_is_sorted():
    tile = np.zeros((8, 8, 3), np.uint8)
    looked = [
        scorer.ScoredPicture(Score("b", "ok", (Comparison((0.2,)),)), tile=tile),
        scorer.ScoredPicture(Score("d", "no face"), tile=tile),
        scorer.ScoredPicture(Score("a", "ok", (Comparison((0.9, 0.7)),), prompt=21.0), tile=tile),
        scorer.ScoredPicture(Score("c", "ok", (Comparison((-0.5,)),)), tile=tile),
        scorer.ScoredPicture(Score("e", "failed"), tile=None),
    ]
    assert [caption.splitlines() for caption, _ in score_report.tiles_of(looked)] == [
        ["likeness 0.800", "prompt_score 21.00", "a"],
        ["likeness 0.200", "b"],
        ["likeness -0.500", "c"],
        ["no face", "d"],
    ]


def test_several_recognisers_other_photographs_and_what_they_agree_on(
    photos, tmp_path, capfd, monkeypatch
):
    other = tmp_path / "other.onnx"
    write_projection(other, 112, 64)
    arguments = (
        *("--reference", "me.png", "--truth", "other.png"),
        *("--recognizer", other, "--recognizer", "antelopev2"),
        *("me.png", "again.png", "other.png", "nobody.png"),
    )
    code, out, err = run(capfd, monkeypatch, photos, *arguments)
    assert code == 0
    first, second, columns, me, *_, truth, nobody = out.splitlines()
    assert "by other.onnx" in first
    assert "by 2: the same by glintr100.onnx" in second
    assert "which PuLID is conditioned on" in second
    assert "conditioned" not in first
    assert columns.split() == [
        *("likeness", "best", "by", "2", "truth", "copy_paste", "faces", "picture")
    ]
    assert me.split()[4] == "+1.000"
    assert truth.split()[3:5] == ["1.000", "-1.000"]
    assert nobody.split() == ["no", "face", "0", "nobody.png:", "no", "face", "found"]
    assert "glintr100.onnx and other.onnx: correlation 1.00 over 3 faces" in err
    found = json.loads(run(capfd, monkeypatch, photos, *arguments, "--json")[1].splitlines()[2])
    ours, theirs = found["recognizers"]
    assert (ours["own"], theirs["own"]) == (False, True)
    assert found["likeness"] == ours["likeness"] != theirs["likeness"]
    assert (found["truth"], theirs["copy_paste"]) == (1.0, -1.0)
