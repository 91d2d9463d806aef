"""The whole of stage one on the small world: which face both networks see, what the file holds,
what the command prints.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.coloured_faces import GREEN, LARGE, MAGENTA, RED, YELLOW, face_box, picture, png
from support.commands import call
from support.paths import ROOT
from support.portrait_models import models_folder

from pulid_extract import FaceBox, cli, decode_embedding, read_embedding
from pulid_extract.faces import antelopev2 as faces
from pulid_extract.faces import crop as face_crop
from pulid_extract.faces.choice import FaceChoice
from pulid_extract.pictures.portrait import Photo
from pulid_extract.shared.errors import FaceError, InputError, WeightsError
from pulid_extract.version import __version__

# A large face in the corner, a small one in the middle: the reference gives ArcFace the first and
# EVA-CLIP the second.
CORNER, MIDDLE = (2, 2, RED), (9, 10, GREEN)


@functools.cache
def extractor():
    from pulid_extract.extraction.extractor import Extractor

    return Extractor.load(models_dir=models_folder(), device="cpu")


@functools.cache
def identity(*patches):
    return extractor().extract(picture(*patches))


def crop(*patches):
    (one,) = identity(*patches).crops
    return one


def box_of(patch, half=LARGE) -> FaceBox:
    x1, y1, x2, y2 = face_box(patch[0], patch[1], half)
    return FaceBox(max(x1, 0), max(y1, 0), x2 - max(x1, 0), y2 - max(y1, 0))


# --------------------------------------------------------------------------------- which face it is


def test_both_networks_see_the_largest_face_of_a_group():
    group, alone = crop(CORNER, MIDDLE), crop(CORNER)
    assert group.faces_found == 2
    assert alone.faces_found == 1
    assert group.box == alone.box == box_of(CORNER)
    np.testing.assert_array_equal(group.crop, alone.crop)
    np.testing.assert_array_equal(identity(CORNER, MIDDLE).tokens, identity(CORNER).tokens)


def test_another_face_gives_other_tokens():
    """The equality above can fail: through the crop, and through the ArcFace vector alone."""
    alone, other = identity(CORNER), identity(MIDDLE)
    assert not np.allclose(alone.tokens, other.tokens, atol=1e-3)
    antelope, pictures = (
        extractor()._antelope,
        [picture(patch)[..., ::-1].copy() for patch in (CORNER, MIDDLE)],
    )
    vectors = [antelope.embed(bgr, antelope.detect(bgr)[0]) for bgr in pictures]
    assert not np.allclose(*vectors, atol=1e-3)


def test_the_shapes_and_ranges_of_an_identity():
    one, cut = identity(CORNER), crop(CORNER)
    assert one.tokens.shape == (32, 2048)
    assert one.tokens.dtype == np.float32
    assert one.uncond is None
    assert cut.crop.shape == cut.grey_face.shape == (512, 512, 3)
    assert cut.crop.dtype == cut.grey_face.dtype == cut.labels.dtype == np.uint8
    assert cut.labels.shape == (512, 512)
    assert (cut.labels == 1).all()
    assert (cut.grey_face[..., 0] == cut.grey_face[..., 1]).all()
    assert cut.vector.shape == (512,)
    assert cut.landmarks.shape == (5, 2)
    assert cut.face == "largest"
    assert cut.score is not None
    assert 0.9 < cut.score <= 1
    assert 0 <= cut.quality.value <= 1


def test_detectors_that_mean_different_faces_are_an_error():
    with pytest.raises(
        FaceError, match=r"detectors disagree: insightface's largest face is at 0,0,176,176 .* 0\.3"
    ):
        extractor().extract(picture((2, 2, YELLOW), (14, 14, MAGENTA)))


@pytest.mark.parametrize(("shift", "shared", "same"), [(0.5, 0.33, True), (0.6, 0.25, False)])
def test_boxes_are_one_face_from_an_overlap_of_three_tenths(monkeypatch, shift, shared, same):
    """shift: of RetinaFace's box, in widths of the other; the overlap is (1 - shift) / (1 +
    shift).
    """
    left, top, right, bottom = (
        extractor()._antelope.detect(picture(CORNER)[..., ::-1].copy())[0].box
    )
    find = face_crop.find_landmarks

    def shifted(detector, image, confidence):
        moved = (left + shift * (right - left), top, right + shift * (right - left), bottom)
        assert faces.overlap((left, top, right, bottom), moved) == pytest.approx(shared, abs=0.01)
        return [replace(mark, box=moved) for mark in find(detector, image, confidence)]

    monkeypatch.setattr(face_crop, "find_landmarks", shifted)
    if same:
        assert extractor().extract(picture(CORNER)).tokens.shape == (32, 2048)
    else:
        with pytest.raises(FaceError, match="detectors disagree"):
            extractor().extract(picture(CORNER))


def test_a_face_only_insightface_sees_is_an_error():
    with pytest.raises(FaceError, match="RetinaFace sees none, insightface finds 1"):
        extractor().extract(picture((9, 9, YELLOW)))


def test_a_crop_in_which_the_parser_sees_no_face_is_an_error(monkeypatch):
    """EVA-CLIP would see a white square, and the embedding would be of nobody."""
    monkeypatch.setattr(face_crop, "parse_face", lambda parser, face: face[:, :1].long() * 0)
    with pytest.raises(FaceError, match="the face parser sees no face in the crop"):
        extractor().extract(picture(CORNER))


def test_a_picture_without_a_face_is_an_error():
    with pytest.raises(FaceError, match="no face found"):
        extractor().extract(picture())


def test_a_face_only_retinaface_sees_goes_to_arcface_as_the_aligned_crop():
    patch = (9, 9, MAGENTA)
    found = crop(patch)
    np.testing.assert_array_equal(
        found.vector, extractor()._antelope.embed_crop(found.crop[..., ::-1].copy())
    )
    assert found.faces_found == 1
    assert found.box == box_of(patch)


def test_boxes_are_told_in_pixels_of_the_portrait():
    """A portrait above the limit is shrunk for the detectors; boxes count in the portrait's own
    pixels, inside it.
    """
    photo = Photo(np.zeros((640, 2048, 3), np.uint8), np.zeros((320, 1024, 3), np.uint8))
    assert photo.in_portrait((10, 20, 30.2, 100)) == FaceBox(20, 40, 40, 160)
    assert photo.in_portrait((-10, -20, 30, 999)) == FaceBox(0, 0, 60, 640)


# ------------------------------------------------------------------------------------------ by hand


def test_a_box_by_hand_needs_no_detector():
    from pulid_extract.extraction.extractor import Extractor

    by_hand = Extractor.load(models_dir=models_folder(), device="cpu", detect=False)
    assert "retinaface" not in by_hand.files
    (one,) = by_hand.extract(
        picture(CORNER, MIDDLE), FaceChoice(box=FaceBox(100, 64, 512, 400))
    ).crops
    assert one.face == "box"
    assert one.score is None
    assert one.faces_found == 0
    assert "_retinaface" not in by_hand.__dict__
    assert list(by_hand._antelope._models) == ["recognition"]
    # squared around the centre
    np.testing.assert_array_equal(one.crop, picture(CORNER, MIDDLE)[8 : 8 + 512, 100 : 100 + 512])
    with pytest.raises(InputError, match="loaded without RetinaFace"):
        by_hand.extract(picture(CORNER))


# -------------------------------------------------------------------------------------- uncond, NaN


def test_uncond_is_the_encoder_on_zeros():
    import torch

    both = extractor().extract(
        picture(CORNER), FaceChoice(box=FaceBox(0, 0, 512, 512)), with_uncond=True
    )
    zeros = [torch.zeros(1, 17, 128)] * 5
    want = extractor()._idformer(torch.zeros(1, 512 + 96), zeros)[0].numpy()
    np.testing.assert_array_equal(both.uncond, want)
    assert not np.allclose(both.uncond, both.tokens)


def test_the_condition_is_raw_arcface_and_a_normalised_pooled_vector():
    vector = np.linspace(-30, 30, 512, dtype=np.float32)
    features = extractor().features(replace(crop(CORNER), vector=vector))
    np.testing.assert_array_equal(features.condition[0, :512].numpy(), vector)
    assert features.condition[0, 512:].norm().item() == pytest.approx(1, abs=1e-5)
    assert [tuple(hidden.shape) for hidden in features.hidden_states] == [(1, 17, 128)] * 5


def test_weights_that_give_nan_are_an_error(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    from pulid_extract.extraction.extractor import Extractor

    state = load_file(models_folder() / "pulid.safetensors")
    state["pulid_encoder.proj_out"][0, 0] = torch.nan
    save_file(state, tmp_path / "pulid.safetensors")
    broken = Extractor.load(
        models_dir=models_folder(),
        pulid_weights=tmp_path / "pulid.safetensors",
        device="cpu",
        detect=False,
    )
    with pytest.raises(WeightsError, match="NaN"):
        broken.extract(picture(), FaceChoice(box=FaceBox(0, 0, 512, 512)))


def test_an_encoder_for_another_tower_is_refused(tmp_path):
    from safetensors.torch import save_file
    from support.portrait_models import pulid_state

    from pulid_extract.extraction.extractor import Extractor

    save_file(pulid_state(cond_dim=512 + 768), tmp_path / "pulid.safetensors")
    other = Extractor.load(
        models_dir=models_folder(),
        pulid_weights=tmp_path / "pulid.safetensors",
        device="cpu",
        detect=False,
    )
    with pytest.raises(WeightsError, match="wants a condition of 1280"):
        other.extract(picture(), FaceChoice(box=FaceBox(0, 0, 512, 512)))


def test_a_device_that_is_not_there_is_an_error():
    import torch

    from pulid_extract.extraction.extractor import choose_device

    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in ("cpu", "cuda", "mps")
    if not torch.backends.mps.is_available():
        with pytest.raises(InputError, match="--device mps: not on this machine"):
            choose_device("mps")


# -------------------------------------------------------------------------------------- the command


def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pulid_extract", *arguments],
        capture_output=True,
        env=environment,
        timeout=300,
    )


def test_the_command_twice_same_bytes(tmp_path, capfdbinary, monkeypatch):
    portrait = tmp_path / "me.png"
    portrait.write_bytes(png(picture(CORNER, MIDDLE)))
    out, face, cropped = tmp_path / "me.pulidembd", tmp_path / "face.png", tmp_path / "crop.png"
    pictures = ["--face-image", str(face), "--crop-image", str(cropped)]
    models = ["--models-dir", str(models_folder()), "--device", "cpu", "--with-uncond"]

    first = run("--portrait", str(portrait), "--out", str(out), "--json", *models, *pictures)
    assert first.returncode == 0, first.stderr.decode()
    assert first.stdout.count(b"\n") == 1  # nothing but the result, whatever the libraries print
    assert b"Warning" not in first.stderr
    report = json.loads(first.stdout)
    embedding = read_embedding(out)
    assert report["output"] == str(out)
    assert report["sha256"] == embedding.sha256
    assert report["tokens"] == [32, 2048]
    assert report["faces"] == 2
    assert report["box"] == list(vars(box_of(CORNER)).values())
    assert report["files"]["eva_clip"] == {
        "path": str(models_folder() / "eva.pt"),
        "rule": "models folder",
    }
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    np.testing.assert_array_equal(
        embedding.tokens, identity(CORNER, MIDDLE).tokens.astype(np.float16).astype(np.float32)
    )
    assert embedding.uncond is not None
    assert embedding.provenance["tool"] == f"pulid_extract {__version__}"
    assert embedding.provenance["face"] == "largest"
    assert set(embedding.provenance) == {
        "tool",
        "face",
        "portrait.sha256",
        "weights.sha256",
        "eva_clip.sha256",
        "recognizer.sha256",
    }
    recogniser = models_folder() / "antelopev2" / "glintr100.onnx"
    assert embedding.recognizer == hashlib.sha256(recogniser.read_bytes()).hexdigest()
    np.testing.assert_array_equal(np.asarray(Image.open(cropped)), crop(CORNER, MIDDLE).crop)
    np.testing.assert_array_equal(np.asarray(Image.open(face)), crop(CORNER, MIDDLE).grey_face)

    # Again in this process, through pipes: another process and another road to the same bytes.
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(portrait.read_bytes())))
    monkeypatch.setattr(
        sys, "argv", ["pulid-extract", "--portrait", "-", "--out", "-", "--json", *models]
    )
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    stdout, stderr = capfdbinary.readouterr()
    assert not exit_.value.code
    assert stdout == out.read_bytes()
    assert json.loads(stderr.splitlines()[-1])["output"] == "-"


def test_a_failure_leaves_the_old_file(tmp_path, capfd, monkeypatch):
    portrait, out = tmp_path / "me.png", tmp_path / "me.pulidembd"
    portrait.write_bytes(png(picture()))
    out.write_bytes(b"old")
    code, stdout, stderr = call(
        capfd,
        monkeypatch,
        "--portrait",
        str(portrait),
        "-o",
        str(out),
        "--models-dir",
        str(models_folder()),
        "--device",
        "cpu",
    )
    assert code == 1
    assert stdout == ""
    assert f"pulid-extract: error: {portrait}: no face found" in stderr
    assert "Traceback" not in stderr
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["me.png", "me.pulidembd"]


def test_dtypes_and_a_box_by_hand(tmp_path, capfd, monkeypatch):
    portrait = tmp_path / "me.png"
    portrait.write_bytes(png(picture(CORNER)))
    for dtype in ("f32", "bf16"):
        out = tmp_path / f"{dtype}.pulidembd"
        code, stdout, stderr = call(
            capfd, monkeypatch, "--portrait", str(portrait), "-o", str(out), "--models-dir", str(models_folder()),
            "--device", "cpu", "--dtype", dtype, "--face-box", "0,0,512,512",
        )  # fmt: skip
        assert (code, stdout) == (0, f"{out}\n"), stderr
        assert read_embedding(out).dtype == dtype
        assert read_embedding(out).provenance["face"] == "box"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Examples:"),  # help
        (["-o", "x"], "Missing option '--portrait'"),
        (["--portrait", "a.jpg"], "Missing option '--out'"),
        (["--portrait", "a.jpg", "-o", "x", "--dtype", "f8"], "--dtype"),
        (["--portrait", "a.jpg", "-o", "x", "--face-box", "1,2,3"], "--face-box"),
        (["--portrait", "a.jpg", "-o", "x", "--device", "gpu"], "--device"),
        (["a.jpg", "-o", "x"], "a.jpg"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_usage_is_exit_2_with_usage(arguments, message, capfd, monkeypatch):
    code, stdout, stderr = call(capfd, monkeypatch, *arguments)
    assert code == 2
    assert stdout == ""
    assert "Usage: pulid-extract" in stderr
    assert message in stderr


def test_what_cannot_be_done_is_exit_1_with_one_line(tmp_path, capfd, monkeypatch):
    portrait = tmp_path / "me.png"
    portrait.write_bytes(png(picture(CORNER)))
    given = ["--portrait", str(portrait)]
    (tmp_path / "empty").mkdir()
    (tmp_path / "half.pulidembd").symlink_to(tmp_path / "nowhere" / "x")
    cases = [
        ([*given, "-o", str(tmp_path / "no" / "x.pulidembd")], "cannot be written"),
        ([*given, "-o", str(tmp_path)], "is a folder"),
        ([*given, "-o", str(portrait)], "would overwrite an input"),
        (["--portrait", str(tmp_path / "none.jpg"), "-o", str(tmp_path / "x")], "no such file"),
        (["--portrait", str(tmp_path / "empty"), "-o", str(tmp_path / "x")], "holds no picture"),
        (
            [*given, "-o", str(tmp_path / "x"), "--models-dir", str(tmp_path / "none")],
            "does not exist",
        ),
        (
            [*given, "-o", str(tmp_path / "x"), "--antelopev2", str(tmp_path / "none")],
            "no such file",
        ),
        (
            [
                *given,
                "-o",
                str(tmp_path / "x"),
                "--models-dir",
                str(models_folder()),
                "--device",
                "cpu",
                "--face-box",
                "9,9,640,9",
            ],
            "reaches outside the portrait, which is 640x640",
        ),
    ]
    for arguments, message in cases:
        code, stdout, stderr = call(capfd, monkeypatch, *arguments)
        errors = [line for line in stderr.splitlines() if line.startswith("pulid-extract: error: ")]
        assert (code, stdout, len(errors)) == (1, "", 1), stderr
        assert message in errors[0]
        assert "Traceback" not in stderr
    assert not (tmp_path / "x").exists()
    assert portrait.read_bytes() == png(picture(CORNER))


def test_options_before_a_subcommand_are_not_dropped(capfd, monkeypatch):
    """An option in front of a sub-command's name must not vanish."""
    code, stdout, stderr = call(capfd, monkeypatch, "--out", "x", "faces", "a.jpg")
    assert (code, stdout) == (2, "")
    assert "--out stands before 'faces'" in stderr


def test_interrupt_and_broken_pipe_show_no_traceback(capfd, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupt)
    assert call(capfd, monkeypatch)[0] == 130
    script = (
        f"{sys.executable} -c 'from pulid_extract import cli; "
        "cli.console.write_result(bytes(10**6))' | true"
    )
    shell = "set -o pipefail; " + script.replace(
        "cli.console.w", "cli.app=lambda **k: cli.console.w"
    ).replace("**6))", "**6)); cli.main()")
    bash = shutil.which("bash") or "/bin/bash"
    ended = subprocess.run([bash, "-c", shell], capture_output=True, cwd=ROOT, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr == b""


def test_help_is_instant_and_torch_stays_out():
    check = (
        "import sys, pulid_extract.cli; print([m for m in "
        "('torch','numpy','cv2','PIL','insightface','rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, cwd=ROOT, timeout=60)
    assert done.stdout.strip() == b"[]", done.stderr.decode()


def test_the_version_is_one_number(capfd, monkeypatch):
    import tomllib

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
    assert call(capfd, monkeypatch, "--version")[:2] == (0, f"pulid-extract {__version__}\n")


def test_golden_reader_agrees(tmp_path):
    """What the command writes is what the format's reader reads: tokens survive the trip within
    half precision.
    """
    from pulid_extract import encode_embedding

    one = identity(CORNER)
    again = decode_embedding(encode_embedding(one.tokens))
    assert np.abs(again.tokens - one.tokens).max() <= np.abs(one.tokens).max() * 2**-11
