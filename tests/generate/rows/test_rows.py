"""Rows of a manifest: what their values become, and one line for each that is wrong."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulid_extract.shared.records import Problem
from pulid_generate.errors import InputError, RequestError
from pulid_generate.flags.commands.tables import BatchFlags
from pulid_generate.rows.columns import COLUMNS, FIELDS_BY_NAME
from pulid_generate.rows.manifest import parse_line, read_manifest, read_row
from pulid_generate.rows.sources import read_rows

BASE = Path("/models")


@pytest.mark.parametrize(
    ("record", "values"),
    [
        ({"pulid-id-weight": 1}, {"pulid_id_weight": 1.0}),
        ({"--true-cfg": "2.5"}, {"cfg_scale": 2.5}),
        ({"id_start_step": 4}, {"id_start_step": "4"}),
        ({"id-start-step": 0.2}, {"id_start_step": "0.2"}),
        ({"sigmas": [1, 0.5, 0]}, {"sigmas": "1,0.5,0"}),
        ({"sigmas": "[1.0,0]"}, {"sigmas": "1.0,0"}),
        ({"skip_layers": [7, 8]}, {"skip_layers": "7,8"}),
        ({"vae-tiling": "yes", "rng": "cpu"}, {"vae_tiling": True, "rng": "cpu"}),
        (
            {"identity": "a.e,weight=2;b.e,mask=m.png"},
            {"identity": ["/models/a.e,weight=2", "/models/b.e,mask=/models/m.png"]},
        ),
        ({"lora": ["/x/a.safetensors:0.5"]}, {"lora": ["/x/a.safetensors:0.5"]}),
        ({"init-img": "in.png"}, {"init_img": "/models/in.png"}),
        ({"prompt": "-"}, {"prompt": "-"}),
    ],
)
def test_values_are_what_the_command_line_would_give(record, values):
    assert read_row(record, 1, 1, BASE).values == values


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"promt": "x"}, "unknown option 'promt'"),
        ({"models-dir": "x"}, "command line"),
        ({"json": True}, "command line"),
        ({"threads": 2}, "command line"),
        ({"seed": 1.5}, "whole number"),
        ({"seed": True}, "whole number"),
        ({"seed": "9" * 30}, "whole number"),
        ({"prompt": 5}, "a text"),
        ({"prompt": "a\0"}, "a text"),
        ({"guidance": "nan"}, "a number"),
        ({"vae_tiling": "maybe"}, "true or false"),
        ({"rng": "gpu"}, "one of cuda, cpu"),
        ({"sigmas": "1,x"}, "not a list of numbers"),
        ({"flow_shift": "big"}, "not auto, none or a number"),
        ({"init_img": "-"}, "standard input"),
        ({"pulid_id_embedding": ""}, "a text"),
        ({"cfg_scale": 1, "true_cfg": 2}, "twice"),
        ({"identity": [1]}, "list of texts"),
    ],
)
def test_wrong_values_are_named(record, words):
    with pytest.raises(RequestError, match=words):
        read_row(record, 1, 1, BASE)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (0.5, ["0.5"]),
        ([0, 0.75], ["0", "0.75"]),
        ("0.5; 1", ["0.5", "1"]),
        (["", "pose"], ["", "pose"]),
    ],
)
def test_a_number_or_a_text_for_each_control_net(given, read):
    name = "control_mode" if "pose" in read else "control_strength"
    assert COLUMNS[name].value(given, BASE) == read
    with pytest.raises(RequestError, match="a number or a text for each"):
        read_row({name: [True]}, 1, 1, BASE)


def test_every_option_of_a_generation_has_a_place():
    assert {"prompt", "seed", "identity", "output", "lora", "mask", "vae_tiling"} <= set(COLUMNS)
    assert {
        "vae",
        "t5xxl",
        "pulid_weights",
        "device",
        "dtype",
        "compute",
        "max_vram",
        "verbose",
        "as_json",
    }.isdisjoint(COLUMNS)
    assert set(COLUMNS) < set(FIELDS_BY_NAME.values())
    assert all(FIELDS_BY_NAME[name] == name for name in COLUMNS)


def test_a_row_over_the_commands_flags():
    common = BatchFlags(prompt="common", seed=9, pulid_id_embedding="me.pulidembd", width=640)
    flags, given_ = read_row(
        {"prompt_file": "p.txt", "pulid_id_embedding": None, "seed": 1}, 1, 1, BASE
    ).merged(common, {"width", "prompt"})
    assert (flags.prompt, flags.prompt_file, flags.pulid_id_embedding) == (
        None,
        "/models/p.txt",
        None,
    )
    assert (flags.seed, flags.width) == (1, 640)
    assert given_ == {"width", "prompt_file", "seed"}


def test_problems_carry_their_lines():
    data = (
        b'\xef\xbb\xbf{"seed": 1}\n\n{"seed": 1, "seed": 2}\n'
        + b"[" * 3000
        + b'\n{"seed": 2}\n"x"\n{"prompt": "a\xe2\x80\xa8b"}\n'
    )
    rows, problems = read_manifest(data, "rows.jsonl", ".jsonl", BASE)
    assert [(row.number, row.line) for row in rows] == [(1, 1), (2, 5), (3, 7)]
    assert [problem.number for problem in problems] == [3, 4, 6]
    assert problems[0].text.startswith("line 3: ")
    assert "twice" in problems[0].text
    rows, problems = read_manifest(
        b'prompt,seed\n"two\nlines",1\na,b,c\nx,\n', "rows.csv", ".csv", BASE
    )
    assert [(row.line, row.values) for row in rows] == [
        (2, {"prompt": "two\nlines", "seed": 1}),
        (5, {"prompt": "x"}),
    ]
    wrong = "line 4: has 3 cells, the header has 2; texts with a comma want quotes"
    assert problems == [Problem(wrong, 4)]
    for bad in (b"\xff\xfe{}", b"{}\n\xff", b"{}\0", b"\n \n"):
        with pytest.raises(InputError, match=r"rows\.jsonl"):
            read_manifest(bad, "rows.jsonl", ".jsonl", BASE)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_no_line_is_a_traceback(text):
    with contextlib.suppress(RequestError):
        assert parse_line(text, 1, BASE).values is not None


def test_a_text_of_prompts_is_no_manifest():
    with pytest.raises(InputError, match=r"ends in .jsonl or .csv; a text .* goes with --prompts$"):
        read_rows(BatchFlags(manifest="prompts.txt"))
    with pytest.raises(InputError, match=r"ends in .jsonl or .csv$"):
        read_rows(BatchFlags(manifest="prompts.doc"))
