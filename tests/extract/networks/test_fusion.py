"""Several portraits of one person: cosines, outliers, strangers, the four ways to fuse, and the
command that does it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from support.coloured_faces import GREEN, RED, picture, png
from support.commands import call
from support.distances import relative
from support.extractions import extractor
from support.portrait_models import models

from pulid_extract import read_embedding
from pulid_extract.extraction.identity import FaceCrop
from pulid_extract.faces.choice import FaceChoice
from pulid_extract.networks.fusion import (
    OUTLIER,
    STRANGER,
    cosines,
    fuse_tokens,
    outliers,
    strangers,
)
from pulid_extract.shared.errors import FaceError, InputError

ONE, TWO = picture((5, 5, RED)), picture((6, 6, RED), (16, 16, GREEN), seed="other")
THREE = picture((8, 8, RED))


def vectors(*angles: float) -> list[np.ndarray]:
    """Vectors of growing length in a plane, at these degrees: the cosine of two is that of their
    difference.
    """
    return [
        np.float32([np.cos(np.radians(angle)), np.sin(np.radians(angle)), *[0] * 510]) * (place + 1)
        for place, angle in enumerate(angles)
    ]


# -------------------------------------------------------------------------------------- one person?


def test_cosines_ignore_length():
    pairs = cosines(vectors(0, 60, 90))
    np.testing.assert_allclose(
        pairs, [[1, 0.5, 0], [0.5, 1, np.cos(np.pi / 6)], [0, np.cos(np.pi / 6), 1]], atol=1e-6
    )
    assert cosines([np.zeros(512), np.ones(512)])[0, 1] == 0


@pytest.mark.parametrize(
    ("angles", "found"),
    [
        ((0, 10, 20), []),
        ((0, 10, 20, 85), [3]),
        ((0, 10, 85, 180), [3, 2]),  # the worst first, and the rest without it
        ((0, 85), []),  # of two, nothing says which
        ((0,), []),
    ],
)
def test_outliers_are_named_worst_first(angles, found):
    assert outliers(cosines(vectors(*angles))) == found


@pytest.mark.parametrize(
    ("cosine", "is_outlier"), [(OUTLIER - 0.01, True), (OUTLIER + 0.01, False)]
)
def test_the_limit_of_an_outlier(cosine, is_outlier):
    pairs = np.ones((3, 3))
    pairs[2, :2] = pairs[:2, 2] = cosine
    assert outliers(pairs) == [2] * is_outlier


@pytest.mark.parametrize(
    ("cosine", "two_people"), [(STRANGER - 0.01, True), (STRANGER + 0.01, False)]
)
def test_the_limit_of_two_people(cosine, two_people):
    pairs = np.ones((3, 3))
    pairs[0, 2] = pairs[2, 0] = cosine
    assert strangers(pairs) == ((0, 2, pytest.approx(cosine)) if two_people else None)


def test_the_limits_are_those_of_the_issue():
    assert (OUTLIER, STRANGER) == (0.35, 0.25)
    assert strangers(np.ones((1, 1))) is None


# ------------------------------------------------------------------------------------- token fusion


@functools.cache
def tokens() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(size=(32, 8)).astype(np.float32) for _ in range(3)]


def test_token_fusions():
    a, b, c = tokens()
    np.testing.assert_allclose(fuse_tokens(tokens(), "mean"), (a + b + c) / 3, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        fuse_tokens(tokens(), "weighted", [1, 0.5, 0.5]), (2 * a + b + c) / 4, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(fuse_tokens(tokens(), "concat"), np.concatenate(tokens()))
    assert all(
        fuse_tokens(tokens(), way, [1, 1, 1]).dtype == np.float32
        for way in ("mean", "weighted", "concat")
    )


def test_weights_of_nothing_are_equal_and_a_useless_portrait_counts_a_hundredth():
    a, b, _ = tokens()
    np.testing.assert_allclose(
        fuse_tokens([a, b], "weighted", [0, 0]), (a + b) / 2, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        fuse_tokens([a, b], "weighted", [1, 0]), (a + 0.01 * b) / 1.01, rtol=1e-5, atol=1e-6
    )


def test_fusions_that_cannot_be_are_refused():
    assert len(fuse_tokens(tokens()[:1] * 32, "concat")) == 1024
    with pytest.raises(FaceError, match="33 portraits give 1056 tokens"):
        fuse_tokens(tokens()[:1] * 33, "concat")
    with pytest.raises(InputError, match="one value for each"):
        fuse_tokens(tokens(), "weighted", [1.0])
    with pytest.raises(InputError, match="expected mean"):
        fuse_tokens(tokens(), "encoder")


# ------------------------------------------------------------------------------------ the extractor


@functools.cache
def crops():
    return tuple(extractor().crop(image) for image in (ONE, TWO))


def test_encoder_fusion_is_one_pass_over_all_images():
    """As the reference stacks them; tests/golden has the encoder's own numbers for two images."""
    import torch

    features = [extractor().features(one) for one in crops()]
    (a, hidden_a), (b, hidden_b) = ((one.condition, one.hidden_states) for one in features)
    with torch.no_grad():
        want = (
            extractor()
            ._idformer(
                torch.stack([a, b], 1),
                [torch.cat(pair, 1) for pair in zip(hidden_a, hidden_b, strict=True)],
            )[0]
            .numpy()
        )
    ours = extractor().tokens(features)
    np.testing.assert_array_equal(ours, want)
    assert ours.shape == (32, 2048)
    singles = [extractor().tokens([one]) for one in features]
    assert all(relative(ours, one) > 1e-3 for one in singles)
    np.testing.assert_allclose(
        extractor().tokens(features, "mean"), (singles[0] + singles[1]) / 2, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(extractor().tokens(features, "concat"), np.concatenate(singles))
    assert relative(extractor().tokens(features, "weighted", [1, 0.1]), singles[0]) < relative(
        extractor().tokens(features, "mean"), singles[0]
    )
    np.testing.assert_array_equal(
        extractor().tokens(features[:1], "mean"), singles[0]
    )  # of one portrait there is nothing to fuse


def test_uncond_is_of_zeros_for_as_many_images_as_the_encoder_saw():
    one = extractor().fuse(crops()[:1], with_uncond=True).uncond
    two = extractor().fuse(crops(), with_uncond=True).uncond
    mean = extractor().fuse(crops(), "mean", with_uncond=True).uncond
    np.testing.assert_array_equal(one, mean)
    assert not np.array_equal(one, two)


# -------------------------------------------------------------------------------------- the command


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


# ---------------------------------------------------------------------- what a shell makes of *.jpg

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
