"""What pulid-extract says: --quiet, --verbose and neither."""

from __future__ import annotations

import json

from support.coloured_faces import ALONE, GROUP, save
from support.commands import call
from support.portrait_models import models

from pulid_extract.shared.cli import console


def test_file_names_are_for_verbose_and_quiet_leaves_results_alone(tmp_path, capfd, monkeypatch):
    group = save(tmp_path / "group.png", *GROUP)
    base = ("faces", str(group), *models()[:2])

    def said(*flags: str) -> tuple[str, str]:
        code, out, err = call(capfd, monkeypatch, *base, *flags)
        assert code == 0, err
        return out, err

    out, err = said()
    assert "antelopev2" not in err
    assert said("-v")[1].startswith("face detector and ArcFace network (antelopev2): ")
    assert said("--quiet") == (out, "")


def test_errors_are_said_however_quiet(tmp_path, capfd, monkeypatch):
    save(tmp_path / "me.png", *ALONE)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"portrait": "me.png", "face_index": "x"}))
    arguments = ("batch", str(rows), "--out-dir", str(tmp_path / "out"), "-q")
    code, out, err = call(capfd, monkeypatch, *arguments)
    assert (code, out) == (1, "")
    assert "line 1: face_index" in err
    assert "1 problem, listed above" in err


def test_a_closed_standard_error_does_not_fill_standard_output(capsys, monkeypatch):
    console.set_loudness()
    monkeypatch.setattr("sys.stderr", None)
    console.log("nobody hears it")
    assert capsys.readouterr().out == ""
