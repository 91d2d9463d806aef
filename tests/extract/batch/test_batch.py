"""`pulid-extract batch`: the same files as the single command, one bad photo, --resume after a
kill, rows that cannot be.
"""

from __future__ import annotations

import csv
import hashlib
import json
import signal
import stat
import threading
from pathlib import Path

import pytest
from support.models.portrait_models import models_folder
from support.pictures.coloured_faces import ALONE, GROUP, OTHER, save
from support.programs.commands import run
from support.programs.processes import started

from pulid_extract import read_embedding
from pulid_extract.batch.journal import NAME, Journal
from pulid_extract.shared.background import ahead
from pulid_extract.shared.cache_folder import default_folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name, patches in {"group": GROUP, "alone": ALONE, "other": OTHER}.items():
        save(folder / f"{name}.png", *patches)
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ----------------------------------------------------------------------------------------- the work

# what a row says, and how the single command says it
ROWS = [
    ({"portrait": "group.png"}, ["--portrait", "group.png"]),
    (
        {
            "portrait": "group.png",
            "face_order": "right",
            "dtype": "f32",
            "with_uncond": True,
            "aligner": "antelopev2",
        },
        [
            "--portrait",
            "group.png",
            "--face-order",
            "right",
            "--dtype",
            "f32",
            "--with-uncond",
            "--aligner",
            "antelopev2",
        ],
    ),
    (
        {
            "portrait": "group.png",
            "face_box": [10, 10, 200, 200],
            "parser": "none",
            "box": [[0, 0, 150, 640]],
        },
        [
            "--portrait",
            "group.png",
            "--face-box",
            "10,10,200,200",
            "--parser",
            "none",
            "--box",
            "0,0,150,640",
        ],
    ),
    (
        {
            "portraits": ["alone.png", "other.png"],
            "fuse": "mean",
            "mix_people": True,
            "aligner": "antelopev2",
            "parser": "none",
        },
        [
            *("--portrait", "alone.png", "other.png", "--fuse", "mean", "--mix-people"),
            *("--aligner", "antelopev2", "--parser", "none"),
        ],
    ),
]


def test_rows_are_what_the_single_command_writes_and_a_bad_one_stops_nobody(
    photos, tmp_path, capfd, monkeypatch
):
    rows = [{**row, "out": f"row{number}"} for number, (row, _) in enumerate(ROWS)]
    rows[1:1] = [
        {"portrait": "broken.png"},
        {"portrait": "none.png"},
        {"portrait": "group.png", "out": "x", "face_index": 7},
    ]
    manifest = photos / "list.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    code, reports, err = run(capfd, monkeypatch, "batch", manifest, "--out-dir", tmp_path / "out")
    assert code == 1
    assert "3 of 7 rows failed" in err.splitlines()[-1]
    assert [report["status"] for report in reports] == [
        "done",
        "failed",
        "failed",
        "failed",
        "done",
        "done",
        "done",
    ]
    assert [report["line"] for report in reports] == list(range(1, 8))
    for report, words in zip(
        reports[1:4],
        ("not a readable", "no such file", "--face-index 7: there are 2 faces"),
        strict=True,
    ):
        assert words in report["error"]
        assert report["output"] is None
    one = reports[0]
    assert (one["faces"], one["face"]) == (2, "largest")
    assert 0 < one["quality"]["value"] <= 1
    assert one["seconds"] > 0
    assert (one["device"], one["arithmetic"]) == ("cpu", "float32")
    assert reports[6]["fuse"] == "mean"
    assert len(reports[6]["portraits"]) == 2
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        NAME,
        *(f"row{number}.pulidembd" for number in range(4)),
    ]
    done = [report for report in reports if report["status"] == "done"]
    for report, (_, arguments) in zip(done, ROWS, strict=True):
        output = Path(report["output"])
        assert sha256(output) == report["sha256"]
        assert stat.S_IMODE(output.stat().st_mode) == 0o600
        monkeypatch.chdir(photos)
        single = tmp_path / "single.pulidembd"
        assert run(capfd, monkeypatch, *arguments, "-o", single)[0] == 0
        assert single.read_bytes() == output.read_bytes(), arguments
        for word in (
            b"group",
            b"alone",
            str(photos).encode(),
            str(tmp_path).encode(),
            str(Path.home()).encode() + b"/",
        ):
            assert word not in output.read_bytes()
    assert len({report["sha256"] for report in done}) == 4  # or equality says nothing

    # what was done is known by its content: an option, a portrait or a damaged output is made again
    first = tmp_path / "out" / "row0.pulidembd"
    first.write_bytes(first.read_bytes()[:-1])
    rows = [
        {**ROWS[0][0], "out": "row0"},
        {**ROWS[1][0], "out": "row1", "dtype": "f16"},
        {**ROWS[2][0], "out": "row2"},
    ]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    code, reports, err = run(
        capfd, monkeypatch, "batch", manifest, "--out-dir", tmp_path / "out", "--resume"
    )
    assert code == 0
    assert [report["status"] for report in reports] == ["done", "done", "skipped"]
    assert reports[0]["sha256"] == done[0]["sha256"]
    assert reports[2]["sha256"] == done[2]["sha256"]
    assert read_embedding(tmp_path / "out" / "row1.pulidembd").dtype == "f16"
    assert "3 rows: 2 done, 1 skipped" in err


def test_a_folder_with_options_for_all(photos, tmp_path, capfd, monkeypatch):
    options = ("--dtype", "bf16", "--aligner", "antelopev2", "--parser", "none")
    code, reports, _ = run(
        capfd, monkeypatch, "batch", photos, "--out-dir", tmp_path / "a" / "b", *options
    )
    assert code == 1
    assert {Path(report["portrait"][0]).name: report["status"] for report in reports} == {
        "alone.png": "done",
        "broken.png": "failed",
        "group.png": "done",
        "other.png": "done",
    }
    assert read_embedding(tmp_path / "a" / "b" / "group.pulidembd").dtype == "bf16"
    assert not default_folder().exists() or not Path(tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("signal_sent", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)]
)
def test_what_was_finished_is_not_lost(signal_sent, code, photos, tmp_path, capfd, monkeypatch):
    manifest, out, rows = photos / "long.csv", tmp_path / "out", 10
    with open(manifest, "w", newline="") as file:
        csv.writer(file).writerows(
            [["portrait", "out"], *(["group.png", f"row{number}"] for number in range(rows))]
        )
    # what is quickest for each row: how faces are found is not what this is about
    command = (manifest, "--out-dir", out, "--aligner", "antelopev2", "--parser", "none")
    child = started(
        *("-m", "pulid_extract", "batch", *command),
        environment={"PULID_MODELS_DIR": str(models_folder())},
    )
    said = [json.loads(child.stdout.readline()) for _ in range(2)]
    child.send_signal(signal_sent)
    rest, err = child.communicate(timeout=120)
    assert child.returncode == code
    assert "Traceback" not in err
    whole = [json.loads(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    assert len(said) + len(whole) < rows  # it was stopped in the middle
    for report in said:
        assert sha256(Path(report["output"])) == report["sha256"]
    for path in out.glob("*.pulidembd"):
        read_embedding(path)  # whole, every one
    (out / ".row5.pulidembd.abcdef.part").write_bytes(b"half")
    with open(out / NAME, "ab") as file:
        file.write(b'{"output": "row9.pulidembd", "ke')  # as if killed within a line
    ended, reports, _ = run(capfd, monkeypatch, "batch", *command, "--resume")
    assert ended == 0
    assert [report["status"] for report in reports[:2]] == ["skipped", "skipped"]
    assert reports[-1]["status"] == "done"
    assert len({report["sha256"] for report in reports}) == 1
    assert not list(out.glob(".*.part"))
    again = run(capfd, monkeypatch, "batch", *command, "--resume")[1]
    assert {report["status"] for report in again} == {"skipped"}


# ------------------------------------------------------------------- rows that cannot be, and usage


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"portrait": "a.png", "fce": 1}, "unknown column 'fce'"),
        ({"portrait": "a.png", "dtype": "f8"}, "dtype 'f8': expected one of f16, bf16, f32"),
        (
            {"portrait": "a.png", "face_order": "biggest"},
            "face_order 'biggest': expected one of largest",
        ),
        ({"portrait": "a.png", "face_box": "1,2,3"}, "--face-box: '1,2,3' is not X,Y,W,H"),
        ({"portrait": "a.png", "box": "1,2;3"}, "--box: '1,2' is not X,Y,W,H"),
        (
            {"portrait": "a.png", "face_at": "1,2", "face_index": 1},
            "--face-at and --face-index both choose the face",
        ),
        ({"portrait": "a.png", "face_index": -1}, "faces are counted from 0"),
        ({"portrait": "a.png", "det_threshold": 2}, "above 0 and below 1"),
        (
            {"portrait": "a.png", "face_box": "1,2,30,40", "aligner": "antelopev2"},
            "--aligner changes nothing",
        ),
        ({"portrait": "a.png", "out": "../a"}, "expected a file name, without folders"),
        ({"portrait": "a.png", "out": ".a"}, "does not start with a dot"),
        ({"portrait": "-"}, "standard input holds one picture"),
        (
            {"portraits": ["a.png", "b.png"], "mask": "m.png"},
            "mask is about the pixels of one portrait",
        ),
        (
            {"portrait": "second.png", "out": "FIRST"},
            "would be written to FIRST.pulidembd, as line 1 is",
        ),
    ],
)
def test_a_row_that_cannot_be_is_named_before_anything_starts(
    line, message, tmp_path, capfd, monkeypatch
):
    rows = [{"portrait": "first.png"}, line, {"portrait": "third.png", "with_uncond": "perhaps"}]
    given = "\n".join(map(json.dumps, rows)).encode()
    monkeypatch.setattr(
        "pulid_extract.batch.work.find_models", lambda *_: pytest.fail("files were looked for")
    )
    code, reports, err = run(
        capfd, monkeypatch, "batch", "-", "--out-dir", tmp_path / "out", stdin=given
    )
    assert (code, reports) == (1, [])
    assert not (tmp_path / "out").exists()
    lines = err.splitlines()
    assert [text.split(":")[0] for text in lines] == ["line 2", "line 3", "pulid-extract"]
    assert message in lines[0]
    assert "2 problems, listed above; nothing was started" in lines[2]


def test_a_rows_choice_takes_the_place_of_the_command_lines(tmp_path):
    from pulid_extract.batch.rows import plan_rows
    from pulid_extract.flags.batch import BatchFlags

    manifest = tmp_path / "list.csv"
    manifest.write_text('portrait,face_box,face_index\na.png,,\nb.png,"1,2,30,40",\nc.png,,2\n')
    flags = BatchFlags(
        rows=str(manifest),
        out_dir="out",
        face_order="left",
        aligner="antelopev2",
        det_threshold=0.3,
        dtype="f32",
    )
    rows, problems = plan_rows(flags)
    assert problems == []
    assert [row.choice.name for row in rows] == ["left 0", "box", "left 2"]
    assert [row.flags.aligner for row in rows] == ["antelopev2", "retinaface", "antelopev2"]
    assert [row.flags.det_threshold for row in rows] == [0.3, None, 0.3]
    assert {row.flags.dtype for row in rows} == {"f32"}
    assert [row.flags.portrait for row in rows] == [
        [str(tmp_path / f"{name}.png")] for name in "abc"
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "list.txt",
            b"",
            "expected a folder of pictures, or a manifest that ends in .jsonl or .csv",
        ),
        ("none/list.csv", None, "cannot be read"),
        ("list.csv", b"portrait\na.png\n\0", "line 3 holds a NUL byte"),
        ("empty", None, "holds no picture"),
    ],
)
def test_what_is_neither_folder_nor_manifest(name, content, message, tmp_path, capfd, monkeypatch):
    (tmp_path / "empty").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, reports, err = run(
        capfd, monkeypatch, "batch", tmp_path / name, "--out-dir", tmp_path / "out"
    )
    assert (code, reports) == (1, [])
    assert message in err
    assert len(err.splitlines()) == 1


def test_two_portraits_of_one_name_are_refused(tmp_path, capfd, monkeypatch):
    for name in ("in/me.png", "in/me.jpg"):
        save(tmp_path / name, *ALONE)
    code, _, err = run(capfd, monkeypatch, "batch", tmp_path / "in", "--out-dir", tmp_path / "out")
    assert code == 1
    assert "me.png: would be written to me.pulidembd, as" in err


# -------------------------------------------------------------------------------------------- parts


def test_work_is_done_ahead_in_order_and_no_further():
    started, gate = [], threading.Event()

    def work(item: int) -> int:
        started.append(item)
        return item * item

    results = ahead(work, range(6), 2)
    assert next(results) == 0
    gate.wait(0.2)
    assert started == [0, 1, 2]
    assert list(results) == [1, 4, 9, 16, 25]
    thrown = ahead(lambda item: 1 // item, [1, 0, 1], 1)
    assert next(thrown) == 1
    with pytest.raises(ZeroDivisionError):
        list(thrown)


def test_a_journal_believes_only_what_is_there(tmp_path):
    output = tmp_path / "a.pulidembd"
    output.write_bytes(b"one")
    journal = Journal(tmp_path)
    journal.add("a.pulidembd", "key", sha256(output))
    assert Journal(tmp_path).done("a.pulidembd", "key") == sha256(output)
    assert Journal(tmp_path).done("a.pulidembd", "other") is None
    assert Journal(tmp_path).done("b.pulidembd", "key") is None
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600
    for torn in (b'{"output": "a', b"\xff\n[]\n1\n", b"[" * 100_000):
        with open(tmp_path / NAME, "ab") as file:
            file.write(torn)
    Journal(tmp_path).add("c.pulidembd", "key", "00")
    assert Journal(tmp_path).done("a.pulidembd", "key") == sha256(output)
    assert json.loads((tmp_path / NAME).read_bytes().splitlines()[-1])["output"] == "c.pulidembd"
    output.write_bytes(b"two")
    assert Journal(tmp_path).done("a.pulidembd", "key") is None
