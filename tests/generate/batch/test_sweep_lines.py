"""Lines of a sweep hold the swept values; a terminal gets a table."""

from __future__ import annotations

import json
import sys

from pulid_generate.batch.lines import PictureResult, ScoreResult, SheetResult
from pulid_generate.batch.sweep_lines import SweepLines
from pulid_generate.rows.axes import parse_axis, sweep_rows

AXES = [parse_axis("id-weight=0,0.5,1"), parse_axis("seed=7,8")]
RESULTS = [
    PictureResult("done", 1, output="a.png", seed=7, seconds=1.25),
    PictureResult("failed", 5, seed=8, error="no room"),
    ScoreResult(6, None, "f.png", None, 8, 0.5, None, 1),
    ScoreResult(6, None, "f.png", None, 8, None, None, 0),
    SheetResult("sweep.png", "00"),
]


def test_values_are_those_of_the_rows():
    lines = SweepLines(AXES, kept=True, as_json=False)
    for row in sweep_rows(AXES):
        label = ", ".join(f"{name} {value}" for name, value in lines.values_of(row.number).items())
        assert label in row.where


def test_lines_of_json(capsys):
    lines = SweepLines(AXES, kept=False, as_json=False)
    for result in RESULTS:
        lines.write(result)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[0]["values"] == {"id-weight": "0", "seed": "7"}
    assert told[1]["values"] == {"id-weight": "0.5", "seed": "8"}
    assert told[2]["values"] == {"id-weight": "1", "seed": "8"}
    assert [line["output"] for line in told] == [None, None, None, None, "sweep.png"]
    assert "values" not in told[4]


def test_a_table_at_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    lines = SweepLines(AXES, kept=True, as_json=False)
    for result in RESULTS:
        lines.write(result)
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["id-weight", "seed", "seed", "picture"]
    assert rows[0].split() == ["0", "7", "7", "1.2", "s", "a.png"]
    assert rows[1].split() == ["0.5", "8", "8", "failed", "no", "room"]
    assert rows[2].split() == ["1", "8", "8", "likeness", "0.500", "f.png"]
    assert "no face" in rows[3]
    assert rows[4] == "sheet: sweep.png"
    SweepLines(AXES, kept=True, as_json=True).write(RESULTS[0])
    assert capsys.readouterr().out.startswith("{")
