"""What is said of steps where standard error is a file: a line now and then."""

from __future__ import annotations

import pytest

from pulid_generate.assembly import progress
from pulid_generate.assembly.progress import PAUSE, Progress


@pytest.mark.parametrize(
    ("flags", "seconds", "lines"),
    [
        ({}, 4.0, 3),
        ({}, 0.1, 0),
        ({"quiet": True}, 4.0, 0),
        ({"verbose": True}, 0.1, 25),
    ],
)
def test_a_log_gets_a_line_now_and_then(flags, seconds, lines, monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = Progress(**flags)
    for step in range(25):
        now[0] += seconds
        shown.step("denoising", step + 1, 25)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == lines
    if lines == 3:
        assert said[0].startswith(f"denoising: step {PAUSE / seconds + 0.5:.0f} of 25, 4.00 s/it")
