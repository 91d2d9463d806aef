"""Grids, and the names of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulid_generate.errors import InputError, OutputError, RequestError
from pulid_generate.rows.grid import grid_rows, identities_in, parse_seeds
from pulid_generate.rows.manifest import read_manifest
from pulid_generate.rows.names import NamePattern, as_word, check_name


def test_a_grid(tmp_path):
    (tmp_path / "p.txt").write_text("\ufeffa cat\r\n\r\n# a dog \r\n", encoding="utf-8")
    for name in ("b.pulidembd", "a.pulidembd", ".hidden.pulidembd", "notes.txt"):
        (tmp_path / name).write_text("x")
    rows = grid_rows(str(tmp_path / "p.txt"), str(tmp_path), "1-2")
    assert [
        (row.values["prompt"], Path(row.values["pulid_id_embedding"]).stem, row.values["seed"])
        for row in rows
    ] == [
        (prompt, name, seed) for prompt in ("a cat", "# a dog") for name in "ab" for seed in (1, 2)
    ]
    assert [row.number for row in rows] == list(range(1, 9))
    assert "line 3" in rows[-1].where
    assert grid_rows(None, None, "5")[0].values == {"seed": 5}
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no \.pulidembd"):
        identities_in(str(tmp_path / "empty"))
    with pytest.raises(InputError, match="cannot be read"):
        identities_in(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("text", "seeds"), [("1-4", [1, 2, 3, 4]), ("7, 1-2", [7, 1, 2]), ("0", [0])]
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "4-1", "1-", "a", "1,1", "1-9999999999", "-1", "1.5"])
def test_seeds_that_cannot_be(text):
    with pytest.raises(RequestError, match="--seeds"):
        parse_seeds(text)


FACTS = {
    "row": 7,
    "index": 0,
    "identity": "ada",
    "seed": 42,
    "prompt": "Ünter ../dem Baum?",
    "weight": 0.5,
    "width": 64,
    "height": 48,
}


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{row:04d}_{identity}_{seed}.png", "0007_ada_42.png"),
        ("{prompt}/{weight:.2f}.webp", "Ünter-..-dem-Baum/0.50.webp"),
        ("{{{width}}}x{height}.jpg", "{64}x48.jpg"),
    ],
)
def test_names(pattern, name):
    assert NamePattern(pattern).name(FACTS) == name


@pytest.mark.parametrize(
    "pattern",
    [
        "{row",
        "{nothing}.png",
        "{row.real}.png",
        "{row!r}.png",
        "{row:{seed}}.png",
        "{row:x y}.png",
        "{seed}",
        "../{row}.png",
        "{}.png",
        "/{row}.png",
        "{row:02147483648d}.png",
        "{weight:.99999999f}.png",
    ],
)
def test_names_that_cannot_be(pattern):
    with pytest.raises((RequestError, OutputError)):
        NamePattern(pattern)


@pytest.mark.parametrize(
    "name", ["-", "", "..", "a/../../b.png", "/etc/x.png", ".hidden.png", "x" * 250 + ".png"]
)
def test_outputs_that_lead_elsewhere(name):
    with pytest.raises(OutputError):
        check_name(name)
    assert str(check_name("a/b.png")) == "a/b.png"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_text_becomes_one_part_of_a_name(text):
    word = as_word(text)
    assert word
    assert "/" not in word
    assert "\0" not in word
    assert len(word) <= 60
    check_name(f"{word}.png") if not word.startswith(".") else None


def test_file_names_that_can_be_none_are_their_rows_problems(tmp_path):
    rows, problems = read_manifest(
        b'{"prompt": "a", "init_img": "~nobody-at-all/x"}\n{"prompt": "a"}\n'
        b'{"prompt": "a", "lora": ["' + b"x" * 5000 + b':1"]}\n',
        "rows",
        ".jsonl",
        tmp_path,
    )
    assert [row.line for row in rows] == [2]
    assert [problem.number for problem in problems] == [1, 3]
    assert "nobody here is called 'nobody-at-all'" in problems[0].text
    assert "longer than a file's name can be" in problems[1].text
