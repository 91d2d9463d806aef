"""`pulid-extract worker`: the single command's files, line by line; what cannot be done is an answer
and ends nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace

import pytest
from support.models.portrait_models import models_folder, write_projection
from support.paths import ROOT
from support.pictures.coloured_faces import ALONE, GROUP, save
from support.programs.commands import run

from pulid_extract.batch.worker import Worker
from pulid_extract.extraction.job import Job, OwnChoice
from pulid_extract.faces.choice import FaceChoice
from pulid_extract.flags.extract import ExtractFlags
from pulid_extract.flags.worker import WorkerFlags
from pulid_extract.pictures.sources import Source


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    save(folder / "group.png", *GROUP)
    save(folder / "alone.png", *ALONE)
    save(folder / "nobody.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def answers(capfd, monkeypatch, *tasks: object) -> list[dict]:
    lines = [task if isinstance(task, str) else json.dumps(task) for task in tasks]
    stdin = "".join(f"{line}\n" for line in lines).encode()
    code, told, _ = run(capfd, monkeypatch, "worker", stdin=stdin)
    assert code == 0
    assert len(told) == len(tasks)
    return told


def test_a_tasks_file_is_the_commands(photos, tmp_path, capfd, monkeypatch):
    group = str(photos / "group.png")
    rows = [
        ({"portrait": [group]}, []),
        ({"portrait": [group], "face_order": "right", "dtype": "f32"}, ["--face-order", "right"]),
        ({"portrait": [group], "aligner": "antelopev2"}, ["--aligner", "antelopev2"]),
        ({"portrait": [group]}, []),
    ]
    tasks = []
    for number, (fields, _) in enumerate(rows):
        out = str(tmp_path / f"{number}.pulidembd")
        tasks.append({"id": number, "task": "extract", "out": out} | fields)
    told = answers(capfd, monkeypatch, *tasks)
    made = []
    for number, (fields, flags) in enumerate(rows):
        out = str(tmp_path / f"command_{number}.pulidembd")
        more = ["--dtype", "f32"] if "dtype" in fields else []
        call_code, _, err = call_extract(capfd, monkeypatch, group, out, *flags, *more)
        assert call_code == 0, err
        data = (tmp_path / f"{number}.pulidembd").read_bytes()
        assert data == (tmp_path / f"command_{number}.pulidembd").read_bytes()
        assert told[number]["status"] == "done"
        assert told[number]["id"] == number
        made.append(data)
    assert made[0] == made[3]
    assert len(set(made)) == 3
    assert stat.S_IMODE((tmp_path / "0.pulidembd").stat().st_mode) == 0o600


def test_each_portrait_has_its_own_face(photos, capfd, monkeypatch):
    alone, group = str(photos / "alone.png"), str(photos / "group.png")
    several = {"task": "crops", "portrait": [alone, group], "mix_people": True}
    single, both, *wrong = answers(
        capfd,
        monkeypatch,
        {"task": "crops", "portrait": [group], "face_index": 1},
        several | {"each": {group: {"face_index": 1}}},
        several | {"each": {group: {"fuse": "concat"}}},
        several | {"each": {"other.png": {"face_index": 1}}},
        several | {"each": [1]},
    )
    assert both["portraits"][1] == single["portraits"][0]
    assert both["portraits"][0]["portrait"] == alone
    assert [answer["status"] for answer in wrong] == ["failed"] * 3
    assert "is none of face_index" in wrong[0]["error"]
    assert all("each: expected an object" in answer["error"] for answer in wrong[1:])


def test_what_is_meant_on_a_portrait_is_never_dropped(photos, tmp_path, capfd, monkeypatch):
    group, mask = str(photos / "group.png"), tmp_path / "mask.png"
    again, copy = str(shutil.copy(group, tmp_path / "again.png")), tmp_path / "copy.png"
    shutil.copy(group, copy)
    save(mask)
    before = mask.read_bytes()
    twice = {"task": "crops", "portrait": [group, again]}
    told = answers(
        capfd,
        monkeypatch,
        twice | {"each": {again: {"face_index": 1}}},
        twice | {"each": {group: {"face_index": 1}, again: {"face_index": 1}}},
        {
            "task": "crops",
            "portrait": [group],
            "each": {group: {"mask": str(mask)}},
            "preview": str(mask),
        },
        {"task": "crops", "portrait": group, "parse_image": group},
        {"task": "crops", "portrait": str(copy), "parse_image": str(tmp_path / "parts.png")},
        {"task": "crops", "portrait": [group], "mask": "-"},
    )
    assert "again.png is the same picture as" in told[0]["error"]
    assert "would overwrite an input" in told[2]["error"]
    assert "would overwrite an input" in told[3]["error"]
    assert "mask: expected" in told[5]["error"]
    assert [answer["status"] for answer in told] == [
        *("failed", "done", "failed", "failed", "done", "failed")
    ]
    assert mask.read_bytes() == before
    assert (tmp_path / "parts.png").is_file()


def test_what_is_meant_on_one_portrait_is_in_the_caches_key():
    source = Source("me.png", "me.png", b"a picture")
    job = Job((source,), FaceChoice(), None, (), ExtractFlags())
    other = replace(job, own={source.sha256: OwnChoice(FaceChoice(index=1))})
    same = replace(job, own={})
    assert job.key({}, "cpu") == same.key({}, "cpu") != other.key({}, "cpu")


def call_extract(capfd, monkeypatch, portrait: str, out: str, *flags: str):
    code, told, err = run(
        capfd, monkeypatch, "--portrait", portrait, "--out", out, *flags, "--json"
    )
    return code, told, err


def test_faces_and_how_like_somebody_they_are(photos, tmp_path, capfd, monkeypatch):
    group, alone = str(photos / "group.png"), str(photos / "alone.png")
    empty = str(save(tmp_path / "empty.png"))
    known, nobody, *wrong = answers(
        capfd,
        monkeypatch,
        {"task": "faces", "photo": group, "people": {"me": [alone], "us": [alone, group]}},
        {"task": "faces", "photo": empty, "allow_none": True},
        {"task": "faces", "photo": empty},
        {"task": "faces", "photo": group, "people": {"me": []}},
        {"task": "faces", "photo": group, "people": ["alone.png"]},
        {"task": "faces", "photo": group, "people": {"me": ["-"]}},
        {"task": "faces", "photo": group, "people": {"me": [empty]}},
    )
    large, small = known["faces"]
    assert large["likeness"]["me"] > small["likeness"]["me"]
    assert large["likeness"]["us"] == pytest.approx((1 + large["likeness"]["me"]) / 2, abs=1e-3)
    assert nobody["faces"] == []
    assert [one["status"] for one in wrong] == ["failed"] * 5
    assert "no face found" in wrong[0]["error"]
    # a name of standard input would read the next task
    for one in wrong[1:4]:
        assert "people: expected an object" in one["error"]
    assert "no face found in this reference" in wrong[4]["error"]


def test_a_reference_is_what_its_file_is_now(photos, tmp_path):
    """Whoever asks may write another picture under the same name."""
    worker = Worker(WorkerFlags(models_dir=str(models_folder()), device="cpu"))
    reference = tmp_path / "me.png"
    task = {"task": "faces", "photo": str(photos / "group.png"), "people": {"me": [str(reference)]}}

    def likeness() -> list[float]:
        told = worker.answer(json.dumps(task).encode())
        return [face["likeness"]["me"] for face in told["faces"]]

    with worker.networks():
        shutil.copy(photos / "alone.png", reference)
        alone = likeness()
        shutil.copy(photos / "group.png", reference)
        group = likeness()
    assert group[0] == pytest.approx(1, abs=1e-3)
    assert group != alone


def test_faces_and_crops(photos, tmp_path, capfd, monkeypatch):
    names = ("preview", "crop_image", "parse_image")
    paths = {name: str(tmp_path / f"{name}.png") for name in names}
    alone = str(photos / "alone.png")
    faces, crops = answers(
        capfd,
        monkeypatch,
        {"task": "faces", "photo": str(photos / "group.png"), "face_order": "left"},
        {"task": "crops", "portrait": [alone]} | paths,
    )
    lefts = [face["box"][0] for face in faces["faces"]]
    assert len(lefts) > 1
    assert lefts == sorted(lefts)
    assert crops["portraits"][0]["portrait"] == alone
    assert isinstance(crops["portraits"][0]["advice"], list)
    assert "%" in crops["portraits"][0]["labels"]
    for path in paths.values():
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


WRONG = {
    "not JSON": ("nonsense", "not JSON"),
    "no task": ({"portrait": ["a.png"]}, "task 'None'"),
    "another task": ({"task": "paint"}, "expected one of extract, crops, faces"),
    "no portrait": ({"task": "extract", "out": "OUT"}, "portrait: expected"),
    "standard input": ({"task": "extract", "out": "OUT", "portrait": ["-"]}, "portrait: expected"),
    "no output": ({"task": "extract", "portrait": ["alone.png"]}, "out: expected"),
    "an unknown field": ({"task": "crops", "portrait": ["alone.png"], "foo": 1}, "unknown field"),
    "another word": ({"task": "crops", "portrait": ["alone.png"], "dtype": "f64"}, "expected one"),
    "two choices": (
        {"task": "crops", "portrait": ["alone.png"], "face_at": [1, 2], "face_index": 1},
        "both choose the face",
    ),
    "not a picture": ({"task": "crops", "portrait": ["broken.png"]}, "broken.png"),
    "a flag in words": (
        {"task": "faces", "photo": "alone.png", "allow_none": "true"},
        "allow_none",
    ),
    "a flag in numbers": (
        {"task": "extract", "portrait": ["alone.png"], "out": "OUT", "vectors": 1},
        "vectors: expected true or false",
    ),
    "no file": ({"task": "faces", "photo": "missing.png"}, "no such file"),
}


def test_what_cannot_be_done_is_an_answer(photos, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(photos)
    tasks = []
    for task, _ in WRONG.values():
        if isinstance(task, dict) and task.get("out"):
            task = task | {"out": str(tmp_path / "out.pulidembd")}
        tasks.append(task)
    told = answers(capfd, monkeypatch, *tasks, {"task": "faces", "photo": "alone.png"})
    for name, (_, words), answer in zip(WRONG, WRONG.values(), told, strict=False):
        assert answer["status"] == "failed", name
        assert words in answer["error"], name
        assert "\n" not in answer["error"]
    assert told[-1]["status"] == "done"
    assert not list(tmp_path.iterdir())


def test_it_answers_as_tasks_come_and_ends_with_its_input(photos):
    command = [sys.executable, "-m", "pulid_extract", "worker", "--models-dir", models_folder()]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
    ) as child:
        for _ in range(2):
            task = {"task": "faces", "photo": str(photos / "alone.png")}
            child.stdin.write(json.dumps(task).encode() + b"\n")
            child.stdin.flush()
            assert json.loads(child.stdout.readline())["status"] == "done"
        child.stdin.close()
        assert child.wait(60) == 0


def test_likeness_to_a_photograph_and_to_the_vectors_of_an_extraction(
    photos, tmp_path, capfd, monkeypatch
):
    group, alone = str(photos / "group.png"), str(photos / "alone.png")
    made = {"task": "extract", "portrait": [group], "out": str(tmp_path / "a.pulidembd")}
    plain, extracted = answers(capfd, monkeypatch, made, made | {"vectors": True, "face_index": 1})
    assert "vectors" not in plain
    [vector] = extracted["vectors"]
    by_photo, by_vector, nobody, *wrong = answers(
        capfd,
        monkeypatch,
        {"task": "score", "photo": group, "reference": [alone]},
        {"task": "score", "photo": group, "vectors": [vector]},
        {"task": "score", "photo": str(photos / "nobody.png"), "vectors": [vector]},
        {"task": "score", "photo": group, "reference": ["-"]},
        {"task": "score", "photo": group},
        {"task": "score", "photo": group, "vectors": [[0.5]]},
        {"task": "score", "photo": group, "vectors": [vector], "reference": [alone]},
        {"task": "score", "photo": str(photos / "broken.png"), "vectors": [vector]},
    )
    assert by_photo["faces"] == by_vector["faces"] > 1
    assert by_photo["recognizer"]["own"] is True
    # the second face, which was chosen, not the largest
    assert by_vector["likeness"] == pytest.approx(1, abs=1e-3)
    assert by_vector["box"] != by_photo["box"]
    assert (nobody["likeness"], nobody["faces"], nobody["status"]) == (None, 0, "done")
    messages = (
        "list of names of pictures",
        "reference or vectors",
        "lists of 512 numbers",
        "reference or vectors",
        "broken.png",
    )
    for told, message in zip(wrong, messages, strict=True):
        assert told["status"] == "failed"
        assert message in told["error"]


def test_the_recogniser_of_another_pack_is_not_pulids(photos, tmp_path):
    shutil.copy(models_folder() / "antelopev2" / "scrfd_10g_bnkps.onnx", tmp_path / "det_10g.onnx")
    write_projection(tmp_path / "w600k_r50.onnx", 112, 512)
    worker = Worker(WorkerFlags(antelopev2=str(tmp_path), device="cpu"))
    alone = str(photos / "alone.png")
    task = {"task": "score", "photo": alone, "reference": [alone]}
    with worker.networks():
        told = worker.answer(json.dumps(task).encode())
    assert (told["recognizer"]["name"], told["recognizer"]["own"]) == ("w600k_r50.onnx", False)
