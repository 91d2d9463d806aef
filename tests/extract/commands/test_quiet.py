"""What pulid-extract says: --quiet, --verbose and neither."""

from __future__ import annotations

import json
import sys

import pytest
from support.models.portrait_models import models
from support.pictures.coloured_faces import ALONE, GROUP, save
from support.programs.commands import call, run

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


def test_a_worker_is_as_quiet_as_it_is_asked_to_be(tmp_path, capfd, monkeypatch):
    save(tmp_path / "group.png", *GROUP)
    task = json.dumps({"task": "faces", "photo": str(tmp_path / "group.png")}).encode()
    for flags, said in (((), False), (("-v",), True), (("-v", "-q"), False)):
        code, [answer], err = run(capfd, monkeypatch, "worker", *flags, stdin=task)
        assert (code, answer["status"]) == (0, "done")
        assert ("(antelopev2): " in err) == said


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


NASTY = "a\x1b[31m\u202egnp.\x9b2J"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_escape_codes_reach_programs_and_no_terminal(is_terminal, capsysbinary, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    console.write_line(f"{NASTY}\nb")
    shown = "a\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}gnp.\N{REPLACEMENT CHARACTER}2J"
    assert capsysbinary.readouterr().out.decode() == f"{shown if is_terminal else NASTY}\nb\n"


def test_the_doctor_shows_no_escape_codes_of_file_names(tmp_path, capfd, monkeypatch):
    """For people in any case, also through a pager."""
    (tmp_path / f"{NASTY}.safetensors").write_bytes(b"x" * 9)
    code, out, err = call(capfd, monkeypatch, "doctor", "--models-dir", str(tmp_path))
    assert code == 1
    assert NASTY[:1] + "?[31m" in out
    assert all(character.isprintable() or character == "\n" for character in out + err)
