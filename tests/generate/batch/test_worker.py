"""A batch whose rows come line by line: each is answered, and none stops it."""

from __future__ import annotations

import json

import pytest
from support.batch_rows import SIZE
from support.programs.commands import lines

from pulid_generate.errors import PlacementError
from pulid_generate.pipeline import loading
from pulid_generate.pipeline.engine import Engine

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_worker_answers_line_by_line(generate, models, rows, people, tmp_path, monkeypatch):
    loads = []
    load = loading.load_flux
    monkeypatch.setattr(loading, "load_flux", lambda *a, **k: (loads.append(1), load(*a, **k))[1])
    monkeypatch.chdir(tmp_path)
    text = rows.read_text().splitlines()
    stdin = (
        "\n".join(
            [text[0], "{broken", "", '{"prompt": "x", "width": 50}', text[1], text[5], text[0]]
        )
        + "\n\xff\n"
    )
    run = generate("batch", "-", *models, "--output-dir", "w", stdin=stdin.encode("latin-1"))
    answers = lines(run)
    assert [(line["line"], line["status"]) for line in answers] == [
        (1, "done"),
        (2, "failed"),
        (4, "failed"),
        (5, "done"),
        (6, "done"),
        (7, "done"),
        (8, "failed"),
    ]
    assert "is not JSON" in answers[1]["error"]
    assert "UTF-8" in answers[-1]["error"]
    assert answers[0]["sha256"] == answers[5]["sha256"]
    assert len(loads) == 1
    assert "3 of 7 lines failed" in run.error
    batch = {
        line["row"]: line["sha256"]
        for line in lines(generate("batch", rows, *models, "--output-dir", "b"))
    }
    assert [answers[0]["sha256"], answers[3]["sha256"], answers[4]["sha256"]] == [
        batch[1],
        batch[2],
        batch[6],
    ]


def test_a_worker_survives_what_stops_a_batch(generate, models, tmp_path, monkeypatch):
    encode = Engine.encode

    def fails_once(self, prompts):
        if prompts[0].text == "a cat":
            raise PlacementError("T5: out of memory")
        encode(self, prompts)

    monkeypatch.setattr(Engine, "encode", fails_once)
    stdin = "".join(
        json.dumps({"prompt": prompt, **SIZE, "output": "x.png"}) + "\n"
        for prompt in ("a cat", "a dog")
    )
    run = generate("batch", "-", *models, "--output-dir", tmp_path, stdin=stdin.encode())
    assert [(line["status"], line["error"]) for line in lines(run)] == [
        ("failed", "T5: out of memory"),
        ("done", None),
    ]
