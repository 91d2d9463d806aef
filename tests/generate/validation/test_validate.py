"""pulid-generate validate through the command line, on the micro models; scores by a fake program,
and once by the real one.
"""

from __future__ import annotations

import json
import stat
import time
from datetime import datetime

import numpy as np
import pytest
from PIL import Image
from seeded import astronaut, micro_antelopev2
from support.programs.fake_reports import EVERYTHING, SCORES

from pulid_generate.errors import PlacementError
from pulid_generate.pipeline.denoiser import Denoiser

FILES = ("report.html", "report.json", "sheet.png")


# -------------------------------------------------------------------------------- the whole command


def test_a_validation(generate, drawn, models, person, fake, tmp_path):
    fake(SCORES)
    done = generate("validate", *drawn)
    assert done.code == 0, done.err
    folder = tmp_path / "out"
    report = json.loads((folder / "report.json").read_text())
    assert report["version"] == 2
    assert report["measures"]["mean_likeness"] == pytest.approx(
        (0.7 + 0.5 + 0.7 + 0) / 4
    )  # without a face: 0
    assert (report["passed"], report["requirements"]) == (None, [])
    assert report["closer_than_weight_0"] == {"pairs": 4, "closer": 3}
    runs = report["runs"]
    assert list(runs) == ["person", "weight_0", "stranger"]
    assert [runs[run]["mean_likeness"] for run in runs] == [0.475, 0.1, -0.1]
    assert (
        runs["person"]["without_face"],
        runs["person"]["with_face"],
        runs["person"]["of_faces"],
    ) == (1, 3, 0.6333)
    assert runs["person"]["moved"] > 0
    assert runs["weight_0"]["moved"] is None
    [recognizer] = report["recognizers"]
    assert recognizer["name"] == "glintr100.onnx"
    assert (recognizer["sha256"], recognizer["own"]) == ("ab" * 32, True)
    assert recognizer["mean_likeness"] == {"person": 0.475, "weight_0": 0.1, "stranger": -0.1}
    assert report["identity"]["name"] == person.name
    assert report["command"].startswith("pulid-generate validate ")
    assert abs(datetime.fromisoformat(report["created"]).timestamp() - time.time()) < 900
    measures = report["measures"]
    assert measures["with_face"] == 0.75
    assert measures["lowest_likeness"] == 0
    assert measures["closer"] == 0.75
    for name in ("copy_paste", "truth_likeness", "prompt", "prompt_score", "pose_freedom"):
        assert measures[name] is None
    assert any("was not judged" in note and "no text tower" in note for note in report["notes"])
    assert report["settings"]["models"]["flux"] == "flux1-schnell"
    assert report["settings"]["steps"] == 2
    assert len(report["pictures"]) == 12
    assert any("flatter" in note for note in report["notes"])
    assert any("1 of 4 of the person" in note for note in report["notes"])
    assert "No face was found" in done.err

    # the pictures are what the single command draws; weight 0 is no PuLID at all, the stranger
    # somebody else
    for output, flags in {
        "line-1_2_person.png": ("--pulid-id-embedding", person),
        "line-1_2_weight_0.png": (),
        "line-1_2_stranger.png": ("--pulid-id-embedding", tmp_path / "you.pulidembd"),
    }.items():
        weights = models if flags else [word for word in models if "pulid" not in str(word)]
        alone = generate(
            *weights,
            *("-W", 64, "-H", 48),
            *flags,
            "-p",
            "a cat",
            "-s",
            2,
            "-o",
            tmp_path / "alone.png",
        )
        assert alone.code == 0, alone.err
        assert (folder / "pictures" / output).read_bytes() == (tmp_path / "alone.png").read_bytes()
    assert len({picture["sha256"] for picture in report["pictures"]}) == 12

    assert [stat.S_IMODE((folder / name).stat().st_mode) for name in FILES] == [0o600] * 3
    lines = done.out.decode().splitlines()
    # then every measure, and the files
    table, measured = lines[: lines.index("")], lines[lines.index("") + 1 : -3]
    assert measured[0].split()[:2] == ["mean_likeness", "0.475"]
    assert lines[-3:] == [str(folder / name) for name in FILES]
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.height > sheet.width / 3 > 64  # two prompts down, three runs across
    assert table[0].split() == [
        "likeness",
        "the",
        "person",
        "weight",
        "0",
        "a",
        "stranger",
        "moved",
    ]
    assert table[-1].split()[:4] == ["mean", "0.475", "0.100", "-0.100"]


def test_resume_draws_nothing_anew_and_json_is_the_report(
    generate, base, drawn, fake, monkeypatch, tmp_path
):
    def fail(*arguments, **more):
        raise PlacementError("was drawn anew")

    fake(SCORES)
    monkeypatch.setattr(Denoiser, "latents", fail)
    again = generate("validate", *drawn, "--json")
    assert again.code == 0, again.err
    assert "12 skipped" in again.err
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert json.loads(again.out) == report
    # what was there already took no time and no memory now
    assert report["measures"]["seconds"] is report["memory"] is None
    assert "was drawn anew" in generate("validate", *base).err  # without --resume


@pytest.mark.parametrize(("least", "code"), [(0.47, 0), (0.48, 1)])
def test_a_minimum_for_ci(least, code, generate, drawn, fake, tmp_path):
    fake(SCORES)
    done = generate("validate", *drawn, "--min-similarity", least)
    assert done.code == code
    assert json.loads((tmp_path / "out" / "report.json").read_text())["passed"] is (code == 0)
    if code:
        assert "mean_likeness is 0.475, required mean_likeness>=0.48; look at" in done.error
        assert "missed" in (tmp_path / "out" / "report.html").read_text()


def test_everything_that_can_be_asked_for(generate, drawn, fake, tmp_path):
    fake(EVERYTHING)
    flags = (*drawn, "--truth", tmp_path / "me & you.png", "--recognizer", "antelopev2")
    flags = (*flags, "--recognizer", "other.onnx")
    good = "mean_likeness>=0.6, copy_paste<=0.25,prompt>-1.6"
    done = generate("validate", *flags, "--require", good, "--require", "pose_freedom>=0.2")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    measures = report["measures"]
    assert measures["mean_likeness"] == 0.6
    assert measures["truth_likeness"] == 0.5
    assert (measures["copy_paste"], report["runs"]["weight_0"]["copy_paste"]) == (0.25, -0.25)
    assert (measures["prompt"], measures["prompt_score"]) == (-1.5, 24)
    # heads turn by 10 degrees instead of 40
    assert measures["pose_freedom"] == pytest.approx(0.25)
    assert report["runs"]["weight_0"]["turned"] == pytest.approx(40)
    first, second = report["recognizers"]
    assert (first["own"], first["agreement"]) == (True, None)
    assert (second["own"], second["agreement"]) == (False, 1)
    assert second["mean_likeness"]["person"] == pytest.approx(0.4)
    assert report["prompt_judge"]["name"] == "eva.pt"
    assert [one["met"] for one in report["requirements"]] == [True] * 4
    assert report["truths"][0]["name"] == "me & you.png"
    # outside the heads of both: x from 6 to 26, y from 4 to 28 and 6 to 18
    pixels = [
        np.asarray(Image.open(tmp_path / "out" / "pictures" / f"line-1_1_{run}.png"), np.int16)
        for run in ("person", "weight_0")
    ]
    change = np.abs(pixels[0] - pixels[1]).mean(2)
    keep = np.ones(change.shape, bool)
    keep[4:28, 6:18] = keep[6:18, 14:26] = False
    told = {picture["output"]: picture for picture in report["pictures"]}
    found = told["pictures/line-1_1_person.png"]
    assert found["disruption"] == pytest.approx(change[keep].mean(), abs=1e-4)
    assert found["moved"] == pytest.approx(change.mean(), abs=1e-4)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "median cosine of about 0.46" in page
    assert "the network that PuLID is conditioned on: the person" in page
    assert "correlation with the first 1.00" in page
    assert "nearer to the photograph that was given" in page

    missed = generate("validate", *flags, "--require", "prompt>=-1,with_face>=1,pose_freedom>0.5")
    assert "prompt is -1.50, required prompt>=-1; pose_freedom is 0.25, required" in missed.error
    assert "with_face" not in missed.error
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["passed"], [one["met"] for one in report["requirements"]]) == (
        False,
        [False, True, False],
    )


def test_one_picture_that_fails_does_not_lose_the_rest(generate, base, fake, monkeypatch, tmp_path):
    fake(SCORES)
    latents = Denoiser.latents

    def sometimes(self, jobs, *arguments, **more):
        if jobs[0].seed == 2 and jobs[0].request.prompt == "a cat":
            raise PlacementError("no memory")
        return latents(self, jobs, *arguments, **more)

    monkeypatch.setattr(Denoiser, "latents", sometimes)
    done = generate("validate", *base)
    assert "3 of 12 pictures could not be drawn or scored, the report is without them" in done.error
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [
        picture["error"] for picture in report["pictures"] if picture["status"] == "failed"
    ] == ["no memory"] * 3
    assert report["measures"]["mean_likeness"] == pytest.approx(1.4 / 3, abs=1e-4)
    assert "3 of 12 pictures could not be drawn" in " ".join(report["notes"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("not drawn") >= 3
    assert page.count("data:image/jpeg") == 9 + 2


@pytest.mark.slow
def test_the_real_program_judges_real_faces(generate, models, person, tmp_path, monkeypatch):
    """Inpainting beside the face keeps it, redrawing all of it does not."""
    monkeypatch.chdir(tmp_path)
    micro_antelopev2.write_pack(tmp_path / "antelopev2", 0)
    Image.fromarray(astronaut.portrait()[32:224, 128:320]).resize((192, 192)).save("me.png")
    beside = np.zeros((192, 192), np.uint8)
    beside[160:] = 255
    Image.fromarray(beside).save("mask.png")
    (tmp_path / "one.txt").write_text("a person")
    flags = (
        *models,
        "--pulid-id-embedding",
        person,
        "--reference",
        "me.png",
        "--antelopev2",
        "antelopev2",
        "--prompts",
        "one.txt",
    )
    start = ("--steps", 4, "--seeds", "3", "-i", "me.png", "--strength", "0.5")
    kept = generate(
        "validate", *flags, *start, "--mask", "mask.png", "--min-similarity", "0.9", "--json"
    )
    assert kept.code == 0, kept.err
    report = json.loads(kept.out)
    assert report["measures"]["mean_likeness"] > 0.99
    assert report["runs"]["person"]["moved"] > 0  # beside the face
    # and nothing of it is the identity's doing
    assert "Only in 0 of 1" in " ".join(report["notes"])
    lost = generate("validate", *flags, *start, "--min-similarity", "0.9", "--json")
    assert "mean_likeness is 0.000, required mean_likeness>=0.9" in lost.error
    assert json.loads(lost.out)["runs"]["person"]["without_face"] == 1
