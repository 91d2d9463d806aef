"""What people send by mistake, and what broken models give: one clear line, exit 1, and every other
file as it was.
"""

from __future__ import annotations

import functools
import sys
import types

import numpy as np
import pytest
from PIL import Image
from support.models.portrait_models import models, models_folder
from support.pictures.bad_pictures import BAD, MODES, heic, huge_png
from support.pictures.coloured_faces import GREEN, RED, picture
from support.pictures.picture_files import PICTURE, encode
from support.programs.commands import call

from pulid_extract import FaceBox
from pulid_extract.faces import antelopev2 as faces
from pulid_extract.faces.choice import FaceChoice
from pulid_extract.pictures.portrait import check_portrait, decode_portrait, pictures_in
from pulid_extract.pictures.sources import expand, read_sources
from pulid_extract.shared.errors import InputError, UsageError, WeightsError
from pulid_extract.shared.picture_file import MAX_PIXELS


@pytest.fixture
def without_heif(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)


# ----------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb(name):
    image = decode_portrait(MODES[name])
    assert (image.dtype, image.shape) == (np.uint8, (48, 32, 3))
    assert image.std() > 10  # and is still a picture


@pytest.mark.parametrize("name", BAD)
def test_a_bad_portrait_is_one_line_and_leaves_every_file_alone(
    name, tmp_path, capfd, monkeypatch, without_heif
):
    data, message = BAD[name]
    photo, out, crop = tmp_path / "me.jpg", tmp_path / "me.pulidembd", tmp_path / "crop.png"
    photo.write_bytes(data)
    out.write_bytes(b"old")
    crop.write_bytes(b"older")
    code, stdout, stderr = call(
        capfd,
        monkeypatch,
        "--portrait",
        str(photo),
        "-o",
        str(out),
        "--crop-image",
        str(crop),
        "--preview",
        str(tmp_path / "s.png"),
        *models(),
    )
    errors = [line for line in stderr.splitlines() if "error:" in line]
    assert (code, stdout, len(errors)) == (1, "", 1)
    assert errors[0].startswith(f"pulid-extract: error: {photo}: ")
    assert message in errors[0]
    assert "Traceback" not in stderr
    assert (out.read_bytes(), crop.read_bytes()) == (b"old", b"older")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "crop.png",
        "me.jpg",
        "me.pulidembd",
    ]


@pytest.mark.parametrize("form", ["TIFF", "BMP", "GIF"])
def test_other_formats_are_called_by_their_name_and_nothing_shows_a_memory_address(form):
    with pytest.raises(InputError, match=f"it is a {form}: save it as PNG"):
        decode_portrait(encode(PICTURE, form))
    with pytest.raises(InputError) as refused:
        decode_portrait(b"no picture at all", "a.jpg")
    assert (
        str(refused.value)
        == "a.jpg: is not a readable JPEG, PNG or WebP picture (it starts like none of them)"
    )


@pytest.mark.parametrize("name", BAD)
def test_what_decodes_passes_the_check_before_and_what_the_check_refuses_never_decodes(
    name, without_heif
):
    check_portrait(encode(PICTURE))
    data, message = BAD[name]
    if "truncated" in message or name in (
        "truncated JPEG",
        "no face",
    ):  # which only decoding and detecting show
        check_portrait(data)
        return
    told = []
    for read in (check_portrait, decode_portrait):
        with pytest.raises(InputError) as refused:
            read(data, "me.jpg")
        told.append(str(refused.value))
    assert told[0] == told[1]


def test_a_picture_of_900_million_pixels_is_refused_before_decoding(monkeypatch):
    from PIL import ImageFile

    def decode(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    assert len(huge_png()) < 1e6
    assert MAX_PIXELS < 30_000**2
    with pytest.raises(
        InputError, match=r"huge\.png: (is|claims) .*million pixels; give a smaller picture"
    ):
        decode_portrait(huge_png(), "huge.png")
    # the check can fail: a picture within the limit is decoded
    with pytest.raises(InputError, match="decoded"):
        decode_portrait(encode(PICTURE))


def test_heic_is_read_where_its_plugin_is_installed(monkeypatch):
    """A stand-in for pillow-heif: its opener registers a format that reads our bytes."""
    asked = []

    class Heif(Image.Image):
        pass

    def register():
        asked.append(True)
        monkeypatch.setitem(
            Image.OPEN,
            "HEIF",
            (lambda file, name: Image.fromarray(PICTURE), lambda prefix: prefix[4:8] == b"ftyp"),
        )

    monkeypatch.setattr(Image, "ID", [*Image.ID, "HEIF"])
    monkeypatch.setitem(
        sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register)
    )
    np.testing.assert_array_equal(decode_portrait(heic()), PICTURE)
    assert asked
    assert Heif


# ------------------------------------------------------------------------------------------ folders


def test_a_folder_holds_pictures_by_their_names_sorted(tmp_path):
    for name in ("b.PNG", "a.jpeg", "c.webp", "d.heic", "notes.txt", ".DS_Store"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "more.jpg").mkdir()
    pictures, skipped = pictures_in(tmp_path)
    assert [path.name for path in pictures] == ["a.jpeg", "b.PNG", "c.webp", "d.heic"]
    assert [path.name for path in skipped] == ["more.jpg", "notes.txt"]
    said: list[str] = []
    assert expand([str(tmp_path), "-"], said.append) == [*map(str, pictures), "-"]
    assert said == [f"{tmp_path}: 2 of 6 skipped, not pictures by their names: more.jpg, notes.txt"]


def test_a_folder_without_pictures_and_standard_input_twice_are_errors(tmp_path):
    (tmp_path / "notes.txt").write_bytes(b"")
    with pytest.raises(InputError, match="holds no picture; expected files that end in"):
        expand([str(tmp_path)], print)
    with pytest.raises(UsageError, match="standard input was named twice"):
        read_sources(["-", "-"], print)


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "none.jpg", "no\nsuch.jpg"])
def test_names_that_cannot_be_are_one_line(name, tmp_path, capfd, monkeypatch):
    for arguments, code in (
        (["--portrait", name, "-o", str(tmp_path / "x")], 1),
        (["faces", name], 1),
        ([name, "-o", "x"], 2),
    ):
        ended, stdout, stderr = call(capfd, monkeypatch, *arguments)
        assert (ended, stdout) == (code, "")
        assert "Traceback" not in stderr
        assert "error" in stderr or code == 2


def test_a_model_file_that_nothing_needs_is_said(monkeypatch):
    from pulid_extract.extraction import opening
    from pulid_extract.flags.extract import ExtractFlags

    said: list[str] = []
    monkeypatch.setattr(opening.console, "log", said.append)
    opening.open_extractor(
        ExtractFlags(models_dir=str(models_folder()), bisenet="b.pth", parser="none", device="cpu")
    )
    assert said[-1] == "--bisenet b.pth: is not used; nothing here needs it"


# ------------------------------------------------------------------------------------ faces, models


@functools.cache
def extractor():
    from pulid_extract.extraction.extractor import Extractor

    return Extractor.load(models_dir=models_folder(), device="cpu")


def test_fifty_faces():
    patches = [
        *((column, row, GREEN) for column in range(0, 20, 3) for row in range(0, 20, 3)),
        (10, 10, RED),
    ]
    crop = extractor().crop(picture(*patches))
    assert crop.faces_found == len(patches) == 50
    assert crop.box.width > 150
    assert "50 faces: the largest was taken" in crop.quality.warnings[-1].advice


NAN = float("nan")


def spoil(monkeypatch, place: str) -> FaceChoice:
    """Make one network answer NaN; returns a choice that comes to it."""
    import torch

    one = extractor()
    by_hand = FaceChoice(box=FaceBox(0, 0, 512, 512))
    if place == "detector":
        antelope = faces.Antelope(models_folder() / "antelopev2")
        answers = (np.float32([[1, 2, NAN, 4, 0.9]]), np.zeros((1, 5, 2), np.float32))
        antelope._models["detection"] = types.SimpleNamespace(
            detect=lambda *a, **k: answers, model_file="scrfd.onnx"
        )
        monkeypatch.setitem(one.__dict__, "_antelope", antelope)
        return FaceChoice()
    if place == "recogniser":
        antelope = faces.Antelope(models_folder() / "antelopev2")
        antelope._models["recognition"] = types.SimpleNamespace(
            get_feat=lambda crop: np.full((1, 512), NAN), model_file="arc.onnx"
        )
        monkeypatch.setitem(one.__dict__, "_antelope", antelope)
        return by_hand
    if place == "RetinaFace":
        broken = types.SimpleNamespace(detect_faces=lambda image, threshold: np.full((1, 15), NAN))
        monkeypatch.setitem(one.__dict__, "_retinaface", broken)
        return FaceChoice()
    if place == "parser":
        monkeypatch.setitem(
            one.__dict__, "_bisenet", lambda pixels: torch.full((1, 19, 512, 512), NAN)
        )
        return by_hand
    name = "_tower" if place == "tower" else "_idformer"
    real = getattr(one, name)
    parameter = next(iter(real.parameters()))
    changed = parameter.clone()
    changed.view(-1)[0] = NAN
    monkeypatch.setattr(parameter, "data", changed)
    return by_hand


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("detector", r"scrfd\.onnx: gives boxes that are NaN"),
        ("recogniser", r"arc\.onnx: gives NaN"),
        ("RetinaFace", "RetinaFace gives boxes that are NaN"),
        ("parser", "BiSeNet gives scores that are NaN"),
        ("tower", r"eva\.pt: gives NaN"),
        ("encoder", r"pulid\.safetensors: gives tokens that are NaN"),
    ],
)
def test_nan_from_a_model_is_one_line_that_names_it(place, message, monkeypatch):
    with monkeypatch.context() as patch:
        choice = spoil(patch, place)
        with pytest.raises(WeightsError, match=message) as caught:
            extractor().extract(picture((5, 5, RED)), choice)
    assert "\n" not in str(caught.value)
    # and without the damage it works
    assert np.isfinite(extractor().extract(picture((5, 5, RED)), choice).tokens).all()
