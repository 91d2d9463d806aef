"""The parts of a batch that need no model: manifests, grids, names, order, the text cache,
interrupts.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulid_extract.shared.model_files import read_header
from pulid_extract.shared.records import Problem
from pulid_generate.batch.lines import PictureResult, ScoreResult, SheetResult, as_json
from pulid_generate.errors import InputError, OutputError, RequestError
from pulid_generate.flags.commands import BatchFlags
from pulid_generate.pipeline.text_cache import TextCache, file_identity, key_of
from pulid_generate.rows.columns import COLUMNS, FIELDS_BY_NAME
from pulid_generate.rows.grid import grid_rows, identities_in, parse_seeds
from pulid_generate.rows.items import Item, in_batches
from pulid_generate.rows.manifest import parse_line, read_manifest, read_row
from pulid_generate.rows.names import NamePattern, as_word, check_name

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


# ------------------------------------------------------------------------------------- grids, names


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


# -------------------------------------------------------------------------------------------- order


def item(number, key="k", loras=(), people=("a",)):
    return Item(number, number, 0, Path(f"{number}.png"), number, people, loras, key)


def numbers(batches):
    return [[one.number for one in batch] for batch in batches]


def test_nothing_loads_twice():
    items = [
        item(1),
        item(2, "big"),
        item(3, loras=("x",)),
        item(4, people=("b",)),
        item(5),
        item(6, "big", ("x",)),
        item(7, "big"),
    ]
    assert numbers(in_batches(items, 1)) == [[1], [5], [4], [2], [7], [3], [6]]
    assert numbers(in_batches(items, 2)) == [[1, 5], [4], [2, 7], [3], [6]]
    assert numbers(in_batches(items, 3)) == [[1, 5, 4], [2, 7], [3], [6]]
    assert in_batches([], 3) == []


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("kj"), st.sampled_from([(), ("x",)]), st.sampled_from(["a", "b"]))
    ),
    st.integers(1, 5),
)
def test_every_picture_is_in_one_batch_of_its_own_kind(kinds, size):
    items = [item(number, key, loras, (who,)) for number, (key, loras, who) in enumerate(kinds)]
    batches = in_batches(items, size)
    assert sorted(one.number for batch in batches for one in batch) == list(range(len(items)))
    assert all(
        1 <= len(batch) <= size and len({(one.key, one.loras) for one in batch}) == 1
        for batch in batches
    )
    sets = [batch[0].loras for batch in batches]
    assert sum(a != b for a, b in itertools.pairwise(sets)) <= 1


def test_lines_of_results():
    failed = PictureResult("failed", 3, 7, error="no")
    assert as_json(failed) == (
        '{"row": 3, "line": 7, "status": "failed", "output": null, "sha256": null, "seed": null, '
        '"identity": null, "seconds": 0.0, "error": "no"}'
    )
    several = PictureResult("done", 1, identities=("a", "b"), seconds=1.23456).as_dict()
    assert (several["identity"], several["identities"]) == ("a", ["a", "b"])
    assert several["seconds"] == 1.235
    assert as_json(ScoreResult(1, None, "ä.png", "0", 5, 0.5, None, 1)) == (
        '{"row": 1, "line": null, "output": "ä.png", "sha256": "0", "seed": 5, '
        '"status": "scored", "cosine": 0.5, "stranger": null, "faces": 1, "error": null}'
    )
    assert as_json(SheetResult("s.png", "0")) == (
        '{"row": null, "line": null, "status": "sheet", "output": "s.png", "sha256": "0", '
        '"error": null}'
    )


# ----------------------------------------------------------------------------------- cache, signals


def test_the_cache_keeps_the_last_used_and_no_damage(tmp_path):
    cache = TextCache(tmp_path, limit=250)
    for age, name in enumerate(("old", "middle", "new")):
        cache.put(name, bytes([age]) * 68)  # 100 bytes each with the seal
        os.utime(tmp_path / "text" / name, (1000 + age, 1000 + age))
    assert cache.get("old") == b"\0" * 68  # used just now
    (tmp_path / "text" / ".new.x.part").write_bytes(b"half")
    os.utime(tmp_path / "text" / ".new.x.part", (1, 1))
    cache.trim()
    assert sorted(os.listdir(tmp_path / "text")) == ["new", "old"]
    assert ("middle" in cache, "new" in cache) == (False, True)
    entry = tmp_path / "text" / "new"
    entry.write_bytes(entry.read_bytes()[:-1])
    assert cache.get("new") is None
    assert "new" not in cache
    assert (tmp_path / "text").stat().st_mode & 0o077 == 0
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--no-cache"):
        TextCache(tmp_path / "file").put("x", b"")
    in_memory = TextCache(None)
    in_memory.put("x", b"1")
    assert in_memory.get("x") == b"1"
    assert not TextCache(None).get("x")


def test_keys_hold_everything(tmp_path):
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1}) != key_of({"a": 1, "b": [3]})
    header = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path = tmp_path / "m.safetensors"
    seen = set()
    for content, when in ((b"1234", 1), (b"1235", 1), (b"1234", 2), (b"1234", 1)):
        path.write_bytes(len(header).to_bytes(8, "little") + header + content)
        os.utime(path, (when, when))
        seen.add(file_identity(read_header(path), path))
    assert len(seen) == 3


# ------------------------------------------------------------------------------------- side by side


@pytest.mark.parametrize(
    ("vae_device", "main_memory", "extra", "fits"),
    [("cuda:0", 10, 30, True), ("cpu", 100, 0, True), ("cpu", 10, 0, False)],
)
def test_what_stays_beside_flux(vae_device, main_memory, extra, fits):
    from pulid_generate.files.model import Model
    from pulid_generate.memory.plan import Plan, Stage
    from pulid_generate.pipeline.planning import _bytes_on_flux_device, _fits_elsewhere

    stages = (Stage(Model.FLUX, "cuda:0", 100, 0, waiting=5), Stage(Model.VAE, vae_device, 20, 10))
    plan = Plan(stages, {"cuda:0": 1000, "cpu": main_memory}, {}, None)
    assert _bytes_on_flux_device(plan, frozenset({Model.VAE})) == int(extra * 1.05)
    assert _fits_elsewhere(plan, frozenset({Model.VAE})) is fits
    assert _fits_elsewhere(plan, frozenset())
