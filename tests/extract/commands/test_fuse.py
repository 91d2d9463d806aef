"""Several portraits for `pulid-extract`: folders, patterns and names in a row, fused or refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from support.models.portrait_models import models
from support.pictures.coloured_faces import picture, png
from support.pictures.extractions import extractor
from support.pictures.similar_people import ONE, THREE, TWO, vectors
from support.programs.commands import call

from pulid_extract import read_embedding
from pulid_extract.extraction.identity import FaceCrop
from pulid_extract.faces.choice import FaceChoice


@pytest.fixture
def folder(tmp_path):
    people = tmp_path / "people"
    people.mkdir()
    (people / "b.png").write_bytes(png(ONE))
    (people / "a.JPG").write_bytes(png(TWO))
    (people / "notes.txt").write_text("x")
    (people / ".hidden").write_text("x")
    (people / "c.png").write_bytes(png(ONE))  # the same as b.png
    return people


# what was cropped already: the same few pictures, in test after test
CROPPED: dict[tuple[bytes, FaceChoice], FaceCrop] = {}


@pytest.fixture
def alike(monkeypatch):
    """alike(0, 10) gives ONE and TWO (and THREE) ArcFace vectors at these degrees, in an Extractor
    that is loaded once.
    """
    from pulid_extract.extraction.extractor import Extractor

    crop_of = Extractor.crop
    monkeypatch.setattr(Extractor, "load", classmethod(lambda cls, **options: extractor()))

    def set_angles(*angles):
        known = list(zip((ONE, TWO, THREE), vectors(*angles), strict=False))

        def crop(self, image, choice, keep=None):
            (vector,) = (vector for picture_, vector in known if np.array_equal(image, picture_))
            if keep is not None:
                return replace(crop_of(self, image, choice, keep), vector=vector)
            key = (image.tobytes(), choice)
            if key not in CROPPED:
                CROPPED[key] = crop_of(self, image, choice)
            return replace(CROPPED[key], vector=vector)

        monkeypatch.setattr(Extractor, "crop", crop)

    return set_angles


def test_a_folder_a_glob_and_repeated_flags_give_the_same_bytes(
    folder, tmp_path, capfd, monkeypatch, alike
):
    """Whatever the order: portraits are fused in the order of their hashes."""
    a, b, c = (str(folder / name) for name in ("a.JPG", "b.png", "c.png"))
    out = tmp_path / "me.pulidembd"
    hashes = {}
    for name, portraits in {
        "folder": ["--portrait", str(folder)],
        "glob": ["--portrait", b, a],
        "repeated": ["--portrait", a, "--portrait", c],
    }.items():
        alike(0, 10)
        code, stdout, stderr = call(
            capfd, monkeypatch, *portraits, "-o", str(out), *models(), "--json", "--with-uncond"
        )
        assert code == 0, stderr
        report = json.loads(stdout)
        hashes[name] = report["sha256"]
        assert [row["face"] for row in report["portraits"]] == ["largest", "largest"]
        assert report["fuse"] == "encoder"
        assert report["cosines"][0][1] == pytest.approx(np.cos(np.radians(10)), abs=1e-3)
        assert "ArcFace cosines" in stderr
        assert "0.98" in stderr
        if name == "folder":
            assert "1 of 4 skipped, not pictures by their names: notes.txt" in stderr
            assert f"{c}: is the same picture as {b}; it counts once" in stderr
            # in the order of their names
            assert stderr.index("a.JPG: quality") < stderr.index("b.png: quality")
    assert len(set(hashes.values())) == 1
    provenance = read_embedding(out).provenance
    assert provenance["fuse"] == "encoder"
    assert provenance["portrait.sha256"] == ",".join(
        sorted(hashlib.sha256(png(image)).hexdigest() for image in (ONE, TWO))
    )
    assert str(tmp_path) not in str(provenance)


@pytest.mark.parametrize(("fuse", "count"), [("mean", 32), ("weighted", 32), ("concat", 64)])
def test_every_fusion_is_written(fuse, count, folder, tmp_path, capfd, monkeypatch, alike):
    alike(0, 10)
    out = tmp_path / "me.pulidembd"
    code, _, stderr = call(
        capfd,
        monkeypatch,
        "--portrait",
        str(folder),
        "-o",
        str(out),
        *models(),
        "--fuse",
        fuse,
        "--with-uncond",
        "--dtype",
        "f32",
    )
    assert code == 0, stderr
    embedding = read_embedding(out)
    assert embedding.tokens.shape == (count, 2048)
    assert embedding.uncond.shape == (32, 2048)
    assert embedding.provenance["fuse"] == fuse
    assert embedding.dtype == "f32"


def test_two_people_are_an_error_unless_forced(folder, tmp_path, capfd, monkeypatch, alike):
    out = tmp_path / "me.pulidembd"
    out.write_bytes(b"old")
    arguments = ["--portrait", str(folder), "-o", str(out), *models()]
    alike(0, 85)
    code, stdout, stderr = call(capfd, monkeypatch, *arguments)
    assert (code, stdout) == (1, "")
    assert "a.JPG and" in stderr
    assert (
        "are two people by ArcFace (cosine 0.09, below 0.25); leave one out; --mix-people" in stderr
    )
    assert out.read_bytes() == b"old"
    alike(0, 85)
    code, stdout, stderr = call(capfd, monkeypatch, *arguments, "--mix-people")
    assert code == 0, stderr
    assert "fused all the same" in stderr


def test_an_outlier_is_named_and_dropped_when_asked(folder, tmp_path, capfd, monkeypatch, alike):
    (folder / "d.png").write_bytes(png(THREE))
    out = tmp_path / "me.pulidembd"
    arguments = ["--portrait", str(folder), "-o", str(out), *models()]
    alike(0, 10, 95)
    code, stdout, stderr = call(capfd, monkeypatch, *arguments)
    assert code == 1
    assert (
        "d.png: unlike the other portraits (mean ArcFace cosine 0.00, below 0.35): warning"
        in stderr
    )
    assert "or give --drop-outliers" in stderr
    alike(0, 10, 95)
    code, stdout, stderr = call(capfd, monkeypatch, *arguments, "--drop-outliers", "--json")
    assert code == 0, stderr
    report = json.loads(stdout)
    assert report["dropped"] == [str(folder / "d.png")]
    assert read_embedding(out).provenance["portrait.sha256"].count(",") == 1


def test_one_bad_portrait_names_itself_and_stops_all(folder, tmp_path, capfd, monkeypatch, alike):
    (folder / "0.png").write_bytes(png(picture()))
    code, stdout, stderr = call(
        capfd, monkeypatch, "--portrait", str(folder), "-o", str(tmp_path / "x"), *models()
    )
    assert (code, stdout) == (1, "")
    assert f"error: {folder / '0.png'}: no face found" in stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "flag",
    [
        ["--face-at", "1,2"],
        ["--face-box", "0,0,64,64"],
        ["--mask", "m.png"],
        ["--box", "0,0,9,9"],
        ["--crop-image", "c.png"],
    ],
)
def test_flags_about_one_portraits_pixels_are_wrong_usage_for_several(
    flag, folder, capfd, monkeypatch
):
    code, _, stderr = call(capfd, monkeypatch, "--portrait", str(folder), "-o", "x", *flag)
    assert code == 2
    assert f"{flag[0]} is about the pixels of one portrait; 3 were given" in stderr


def test_fusing_one_portrait_changes_nothing_and_says_so(tmp_path, capfd, monkeypatch, alike):
    (tmp_path / "a.png").write_bytes(png(ONE))
    hashes = set()
    for extra in ([], ["--fuse", "concat"]):
        code, stdout, stderr = call(
            capfd,
            monkeypatch,
            "--portrait",
            str(tmp_path / "a.png"),
            "-o",
            str(tmp_path / "x"),
            *models(),
            "--json",
            *extra,
        )
        assert code == 0, stderr
        assert ("--fuse changes nothing: there is one portrait" in stderr) == bool(extra)
        hashes.add(json.loads(stdout)["sha256"])
    assert len(hashes) == 1


TAKES_VALUE = {"--portrait": True, "--out": True, "-o": True, "--json": False, "--fuse": True}


@pytest.mark.parametrize(
    ("typed", "want"),
    [
        ("--portrait a.jpg -o x", "--portrait a.jpg -o x"),
        (
            "--portrait a.jpg b.jpg c.jpg -o x",
            "--portrait a.jpg --portrait b.jpg --portrait c.jpg -o x",
        ),
        ("--portrait=a.jpg b.jpg -o x --json", "--portrait=a.jpg --portrait b.jpg -o x --json"),
        ("-o x --portrait a.jpg - d/", "-o x --portrait a.jpg --portrait - --portrait d/"),
        (
            "--portrait a.jpg --portrait b.jpg c.jpg",
            "--portrait a.jpg --portrait b.jpg --portrait c.jpg",
        ),
        # a command's arguments are its own
        ("-o x a.jpg --portrait b.jpg c.jpg", "-o x a.jpg --portrait b.jpg c.jpg"),
        ("faces --portrait b.jpg c.jpg", "faces --portrait b.jpg c.jpg"),
        ("--portrait a.jpg faces p.jpg", "--portrait a.jpg faces p.jpg"),
        ("--portrait", "--portrait"),
        ("--portrait a.jpg -- b.jpg", "--portrait a.jpg -- b.jpg"),
        ("--out --portrait a.jpg b.jpg", "--out --portrait a.jpg b.jpg"),
    ],
)
def test_names_in_a_row_are_portraits(typed, want):
    from pulid_extract.flags.portrait_list import repeat_portrait

    assert repeat_portrait(typed.split(), TAKES_VALUE, {"faces", "pull"}) == want.split()


def test_a_file_named_like_a_command_is_a_portrait_behind_portrait(tmp_path, monkeypatch):
    from pulid_extract.flags.portrait_list import repeat_portrait

    monkeypatch.chdir(tmp_path)
    (tmp_path / "faces").write_bytes(b"x")
    assert repeat_portrait(["--portrait", "a.jpg", "faces"], TAKES_VALUE, {"faces"}) == [
        "--portrait",
        "a.jpg",
        "--portrait",
        "faces",
    ]


def test_a_glob_reaches_the_program(folder, tmp_path, capfd, monkeypatch, alike):
    alike(0, 10)
    code, stdout, stderr = call(
        capfd,
        monkeypatch,
        "--portrait",
        *map(str, sorted(folder.glob("*.[pJ]*"))),
        "--out",
        str(tmp_path / "x"),
        *models(),
    )
    assert (code, stdout) == (0, f"{tmp_path / 'x'}\n"), stderr


def test_pictures_without_portrait_say_what_to_write(folder, capfd, monkeypatch):
    code, _, stderr = call(capfd, monkeypatch, str(folder / "b.png"), "-o", "x")
    assert code == 2
    assert f"pulid-extract --portrait {folder / 'b.png'} --out me.pulidembd" in stderr
    code, _, stderr = call(capfd, monkeypatch, "no-such")
    assert code == 2
    assert "No such command 'no-such'" in stderr
