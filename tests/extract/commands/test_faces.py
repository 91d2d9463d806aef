"""`pulid-extract faces`, and how the flags that choose a face reach the extraction."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from support.models.portrait_models import models, models_folder, write_projection
from support.pictures.coloured_faces import LARGE, SMALL, A, B, C, face_box, picture, png
from support.programs.commands import call

from pulid_extract import read_embedding
from pulid_extract.pictures import drawing

PACK = ("--antelopev2", str(models_folder() / "antelopev2"))


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "group.png"
    path.write_bytes(png(picture(A, B, C)))
    return path


def test_every_face_is_listed_in_the_order_that_counts(photo, capfd, monkeypatch):
    lists = {}
    for order in ("largest", "right"):
        code, stdout, stderr = call(
            capfd, monkeypatch, "faces", str(photo), *PACK, "--json", "--face-order", order
        )
        assert code == 0, stderr
        assert "RetinaFace" not in stderr  # nothing but antelopev2 is looked for
        lists[order] = json.loads(stdout)["faces"]
    assert [face["index"] for face in lists["right"]] == [0, 1, 2]
    left, top, right, bottom = face_box(*A[:2], LARGE)
    assert lists["largest"][0]["box"] == [left, top, right - left, bottom - top]
    assert lists["right"][0]["box"] == [
        face_box(*B[:2], SMALL)[0],
        face_box(*B[:2], SMALL)[1],
        64,
        64,
    ]
    for face in lists["largest"]:
        assert np.array(face["landmarks"]).shape == (5, 2)
        assert set(face["pose"]) == {"yaw", "pitch", "roll"}
        assert abs(face["pose"]["yaw"]) < 5
        assert face["score"] > 0.9
        assert face["sharpness"] >= 0
    assert [face["size"] for face in lists["largest"]] == pytest.approx([192, 64, 64], abs=1)


def test_the_table_is_on_standard_output_and_its_landmarks_are_what_the_flag_takes(
    photo, capfd, monkeypatch
):
    code, stdout, stderr = call(capfd, monkeypatch, "faces", str(photo), *PACK)
    assert code == 0, stderr
    head, *rows = stdout.splitlines()
    _, told, _ = call(capfd, monkeypatch, "faces", str(photo), *PACK, "--json")
    for row, face in zip(rows, json.loads(told)["faces"], strict=True):
        # a cell begins below its column's name
        cells = {name: row[head.index(name) :].split("  ")[0] for name in head.split()}
        assert cells["face"] == str(face["index"])
        assert cells["also"] == f"left {face['left']}"
        assert numbers(cells["x,y,w,h"]) == face["box"]
        for name in ("size", "yaw", "pitch", "roll"):
            assert float(cells[name]) == round((face | face["pose"])[name])
        assert float(cells["score"]) == pytest.approx(face["score"], abs=0.01)
        assert float(cells["sharpness"]) == pytest.approx(face["sharpness"], abs=0.001)
        points = np.array(face["landmarks"]).flatten()
        np.testing.assert_allclose(numbers(cells["landmarks"]), points, atol=0.51)


def numbers(cell: str) -> list[int]:
    """As --face-box and --landmarks take them."""
    return [int(number) for number in cell.split(",")]


def test_drawn_to_a_file_and_through_pipes(photo, tmp_path, capfdbinary, monkeypatch):
    drawn = tmp_path / "drawn.png"
    monkeypatch.setattr(
        sys, "argv", ["pulid-extract", "faces", str(photo), *PACK, "--draw", str(drawn), "--json"]
    )
    from pulid_extract import cli

    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert json.loads(capfdbinary.readouterr()[0])["drawn"] == str(drawn)
    pixels = np.asarray(Image.open(drawn))
    left, _, _, bottom = face_box(*A[:2], LARGE)
    assert tuple(pixels[bottom - 20, left]) == drawing.CHOSEN
    assert tuple(pixels[face_box(*B[:2], SMALL)[3] - 8, face_box(*B[:2], SMALL)[0]]) == drawing.BOX
    monkeypatch.setattr(sys, "argv", ["pulid-extract", "faces", "-", *PACK, "--draw", "-"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(photo.read_bytes())))
    with pytest.raises(SystemExit):
        cli.main()
    out, err = capfdbinary.readouterr()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(out))), pixels)
    assert b"sharpness" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["faces", "{none}"], "no face found; a lower --det-threshold"),
        (["faces", "{tmp}"], "is a folder"),
        (["faces", "{tmp}/no.png"], "no such file"),
        (["faces", "{photo}", "--draw", "{photo}"], "would overwrite an input"),
        (["faces", "{photo}", "--draw", "{tmp}/x.jpg"], "expected a name that ends in .png"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, message, photo, tmp_path, capfd, monkeypatch):
    (tmp_path / "none.png").write_bytes(png(picture()))
    names = {"photo": photo, "tmp": tmp_path, "none": tmp_path / "none.png"}
    code, stdout, stderr = call(
        capfd, monkeypatch, *(argument.format(**names) for argument in arguments), *PACK
    )
    # the name alone is wrong
    assert (code, stdout) == (2 if ".png" in message else 1, "")
    assert "Traceback" not in stderr
    assert message in stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["faces", "--det-threshold", "0.5"], "Missing argument"),
        (["faces", "a.png", "--det-threshold", "1.5"], "1.5 is not above 0 and below 1"),
        (["faces", "a.png", "--face-order", "oldest"], "--face-order"),
        (
            ["--face-index", "0", "--face-at", "1,2"],
            "--face-at and --face-index both choose the face",
        ),
        (
            ["--face-order", "left", "--landmarks", "1,2,3,4,5,6,7,8,9,10"],
            "--landmarks and --face-order both",
        ),
        (["--face-box", "1,2,30,40", "--face-at", "1,2"], "--face-at and --face-box both"),
        (["--face-index", "-1"], "counted from 0"),
        (["--face-at", "1"], "'1' is not X,Y: 2 numbers of pixels"),
        (["--face-at", "nan,1"], "is not X,Y"),
        (["--face-box", "1,2,3.5,4"], "4 whole numbers"),
        (["--landmarks", "1,2,3,4"], "is not X,Y,X,Y,X,Y,X,Y,X,Y"),
        (["--box", "1,2"], "'--box'"),
        (
            ["--face-box", "1,2,30,40", "--det-threshold", "0.3"],
            "--det-threshold changes nothing with --face-box",
        ),
        (["--face-box", "1,2,30,40", "--aligner", "antelopev2"], "--aligner changes nothing"),
        (["--fuse", "median"], "--fuse"),
    ],
)
def test_wrong_usage_is_exit_2(arguments, message, capfd, monkeypatch):
    arguments = (
        arguments if arguments[0] == "faces" else ["--portrait", "a.png", "-o", "x", *arguments]
    )
    code, stdout, stderr = call(capfd, monkeypatch, *arguments)
    assert (code, stdout) == (2, "")
    assert message in " ".join(stderr.split())


def test_the_flags_reach_the_extraction_and_the_file(photo, tmp_path, capfd, monkeypatch):
    out, mask = tmp_path / "x.pulidembd", tmp_path / "mask.png"
    kept = np.zeros((640, 640, 3), np.uint8)
    kept[:, 15 * 32 :] = 255
    mask.write_bytes(png(kept))
    code, stdout, stderr = call(
        capfd, monkeypatch, "--portrait", str(photo), "-o", str(out), *models(), "--json", "--face-order", "right",
        "--aligner", "antelopev2", "--parser", "none", "--mask", str(mask), "--box", "0,0,640,640", "--crop-image", str(tmp_path / "c.png"),
    )  # fmt: skip
    assert code == 0, stderr
    report = json.loads(stdout)
    assert (report["face"], report["faces"]) == ("right 0", 3)
    assert report["box"][0] == face_box(*B[:2], SMALL)[0]
    assert set(report["files"]) == {"antelopev2", "eva_clip", "pulid_weights"}
    assert "aligned by antelopev2's landmarks, without RetinaFace" in stderr
    provenance = read_embedding(out).provenance
    assert (provenance["face"], provenance["aligner"], provenance["parser"]) == (
        "right 0",
        "antelopev2",
        "none",
    )
    assert provenance["region"].startswith("mask ")
    assert provenance["region"].endswith("+box")
    assert "fuse" not in provenance
    assert report["quality"]["faces"] == 3
    assert "faces" not in report["quality"]["warnings"]  # the choice was made by hand


def test_another_face_pack_is_said_and_stands_in_the_file(photo, tmp_path, capfd, monkeypatch):
    """By its flag alone: its vectors have the same shape, and draw somebody else."""
    pack, out = tmp_path / "models" / "buffalo_l", tmp_path / "x.pulidembd"
    pack.mkdir(parents=True)
    antelopev2 = models_folder() / "antelopev2"
    shutil.copy(antelopev2 / "scrfd_10g_bnkps.onnx", pack / "det_10g.onnx")
    # the networks' weights are seeded by their file's name
    write_projection(pack / "w600k_r50.onnx", 112, 512)
    rest = ("--aligner", "antelopev2", "--parser", "none", "--device", "cpu", "-o", str(out))
    for name in ("pulid.safetensors", "eva.pt"):
        (tmp_path / "models" / name).symlink_to(models_folder() / name)
    rest += ("--portrait", str(photo), "--models-dir", str(tmp_path / "models"))
    code, _, stderr = call(capfd, monkeypatch, *rest)
    assert code == 1
    assert f"{pack} is a face pack other than antelopev2" in stderr
    assert not out.exists()
    code, _, stderr = call(capfd, monkeypatch, *rest, "--antelopev2", str(pack))
    assert code == 0, stderr
    assert f"warning: {pack}: is a face pack other than antelopev2: PuLID was trained" in stderr
    sha256 = hashlib.sha256((pack / "w600k_r50.onnx").read_bytes()).hexdigest()
    assert read_embedding(out).recognizer == sha256
    other = read_embedding(out).tokens
    code, _, stderr = call(capfd, monkeypatch, *rest, "--antelopev2", str(antelopev2))
    assert code == 0, stderr
    assert "warning" not in "".join(line for line in stderr.splitlines() if "face pack" in line)
    assert read_embedding(out).recognizer != sha256
    assert not np.array_equal(read_embedding(out).tokens, other)


def test_strict_turns_warnings_into_exit_1_before_anything_is_written(
    photo, tmp_path, capfd, monkeypatch
):
    out, crop = tmp_path / "x.pulidembd", tmp_path / "c.png"
    arguments = ["--portrait", str(photo), "-o", str(out), *models(), "--crop-image", str(crop)]
    code, stdout, stderr = call(capfd, monkeypatch, *arguments, "--strict")
    assert (code, stdout) == (1, "")
    assert "error: --strict: " in stderr
    assert "3 faces: the largest was taken; say which with --face-index" in stderr.splitlines()[-1]
    assert not out.exists()
    assert not crop.exists()
    code, stdout, stderr = call(capfd, monkeypatch, *arguments)
    assert code == 0
    assert "group.png: warning: 3 faces" in stderr
    assert "group.png: quality 0." in stderr
    assert out.exists()


def test_a_face_has_its_number_in_another_order_beside_its_own(photo, capfd, monkeypatch):
    def numbers(*flags: str) -> list[list[str]]:
        code, out, err = call(capfd, monkeypatch, "faces", str(photo), *PACK, *flags)
        assert code == 0, err
        return [line.split()[:3] for line in out.splitlines()[1:]]

    by_size, from_left = numbers(), numbers("--face-order", "left")
    assert {row[1] for row in by_size} == {"left"}
    assert {row[1] for row in from_left} == {"largest"}
    assert {(row[0], row[2]) for row in by_size} == {(row[2], row[0]) for row in from_left}
    _, out, _ = call(capfd, monkeypatch, "faces", str(photo), *PACK, "--json")
    assert [face["left"] for face in json.loads(out)["faces"]] == [int(row[2]) for row in by_size]
