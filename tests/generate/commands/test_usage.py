"""Wrong usage: exit code 2 for what the command line alone shows, 1 for what a file or a row
decides; in plain words, with a hint for what was meant.
"""

from __future__ import annotations

import json

import pytest

from pulid_generate.assembly.usage import doubtful_flags
from pulid_generate.flags.commands.tables import DrawFlags


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--steps", "many"), "'many' is not an integer"),
        (("--steps", "5.5"), "'5.5' is not an integer"),
        (("--guidance", "x"), "'x' is not a number"),
        (("--best-of", "1"), "'1' is below 2"),
        (("--dtype", "int8"), "'int8' is not one of"),
        (("-p", "a", "cat", "in", "the", "rain"), '--prompt "a cat in the rain"'),
        (("-p", "a", "cat", "-W", "64", "-o", "a.png"), '--prompt "a cat"\n'),
        (("verify", "-p", "a", "cat"), '--prompt "a cat"'),
        (("verify", "-p", "a cat", "--steps", "2", "more"), '--prompt "a cat more"'),
        (("doctor", "more"), "'more' belongs to no option"),
        (("cat",), "No such command 'cat'"),
    ],
)
def test_in_plain_words(generate, arguments, words):
    done = generate(*arguments)
    assert (done.code, done.out) == (2, b"")
    assert words in done.err
    assert "Input should" not in done.err
    assert "Value error" not in done.err


def test_a_value_is_2_on_the_command_line_and_1_in_a_row(generate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = ("--sampling-method", "eulr")
    for command in ((), ("batch", "rows.jsonl"), ("sweep", "--over", "steps=1,2"), ("verify",)):
        nobody = ("--pulid-id-embedding", "me.pulidembd") if command == ("verify",) else ()
        done = generate(*command, *wrong, "-p", "x", *nobody)
        assert "sampling-method 'eulr': expected one of euler" in done.usage_error
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "x", "sampling_method": "eulr"}))
    done = generate("batch", "rows.jsonl", "--models-dir", "nowhere")
    assert done.code == 1
    assert "line 1: sampling-method 'eulr'" in done.err
    (tmp_path / "prompt.txt").write_text("a <lora:x>")
    assert "prompt.txt: prompt: '<lora:x>' is not" in generate("--prompt-file", "prompt.txt").error
    assert "is not a LoRA tag" in generate("-p", "a <lora:x>").usage_error


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"pulid_id_weight": 25.0}, ["25 % is 0.25"]),
        ({"pulid_id_weight": 4.0}, ["spoils the picture"]),
        ({"pulid_id_weight": -1.0}, ["draws away from the person"]),
        ({"pulid_id_weight": 1.2}, []),
        ({"vae_tiling": True, "vae_tile_size": "512x512"}, ["4096 pixels, as large as the"]),
        ({"vae_tiling": True}, []),
        ({"control_strength": ["0.0", "0.5"]}, ["--control-strength 0.0 adds nothing"]),
        ({"prompt": " "}, ["--prompt is empty"]),
        ({"prompt": None, "prompt_file": "p.txt"}, []),
    ],
)
def test_values_that_hardly_anybody_means_are_noted(values, words):
    lines = list(doubtful_flags(DrawFlags(**{"prompt": "a cat"} | values)))
    assert len(lines) == len(words)
    for line, part in zip(lines, words, strict=True):
        assert part in line
