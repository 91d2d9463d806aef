"""The soak: a short one, and that its check sees what would be wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from bench import soak
from support.paths import ROOT

from pulid_generate.pictures.picture import encode_pixels


@pytest.mark.slow
def test_rows_survive_kills_at_random_moments():
    """In a process of its own: it forks."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.soak", "--rows", "30", "--kills", "3", "--seed", "1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")])},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert "| rows | 30 |" in done.stdout
    assert "| kills (SIGKILL) | 3," in done.stdout
    assert "| problems | 0 |" in done.stdout


@pytest.fixture
def ended(tmp_path):
    """(a folder in which two rows were drawn, the lines of its two runs)."""
    rows = [{"prompt": "a cat", "seed": seed, "output": f"{seed}.png"} for seed in (1, 2)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "out").mkdir()
    first, last = [], []
    for number, row in enumerate(rows, 1):
        facts = json.dumps({"pulid_generate": "x", "seed": row["seed"], "prompt": "a cat"})
        data = encode_pixels(
            np.zeros((soak.SIDE, soak.SIDE, 3), np.uint8), "PNG", f"a cat\n{facts}"
        )
        (tmp_path / "out" / row["output"]).write_bytes(data)
        line = {
            "row": number,
            "status": "done",
            "sha256": soak.hashlib.sha256(data).hexdigest(),
            "error": None,
        }
        (first if number == 1 else last).append(line)
    return tmp_path, [first, [{**first[0], "status": "skipped"}, *last]]


def test_what_is_right_has_no_problem(ended):
    assert soak.check(*ended) == []


def test_a_row_that_is_missing_drawn_twice_or_not_told(ended):
    folder, runs = ended
    assert soak.check(folder, [runs[0], runs[1][:1]]) != []
    assert soak.check(folder, [runs[0], [*runs[1], runs[1][1]]]) != []
    assert soak.check(folder, [runs[0] * 2, runs[1]]) == ["row 1: drawn 2 times"]
    assert soak.check(
        folder, [runs[0], [{**runs[1][0], "status": "failed", "error": "NaN"}, runs[1][1]]]
    ) == ["row 1: NaN"]


@pytest.mark.parametrize("harm", ["cut", "gone", "half", "other", "hash"])
def test_a_file_that_is_not_what_it_should_be(ended, harm):
    folder, runs = ended
    path = folder / "out" / "1.png"
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif harm == "gone":
        path.unlink()
    elif harm == "half":
        (folder / "out" / ".1.png.x.part").touch()
    elif harm == "other":
        data = (folder / "out" / "2.png").read_bytes()
        path.write_bytes(data)
        for run in runs:
            run[0]["sha256"] = soak.hashlib.sha256(data).hexdigest()
    else:
        runs[1][0]["sha256"] = "0" * 64
    assert len(soak.check(folder, runs)) >= 1
