"""Manifests of a batch: what rows come out, and one line for each thing that is wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulid_extract.batch.manifest import COLUMNS, read_manifest
from pulid_extract.shared.errors import InputError
from pulid_extract.shared.records import (
    MAX_LINE,
    MAX_PROBLEMS,
    Problem,
    csv_records,
    listed,
)


def rows(data: bytes | str, form: str = ".jsonl") -> list[dict]:
    found, problems = read_manifest(data.encode() if isinstance(data, str) else data, "list", form)
    assert problems == []
    return [dict(row.values) for row in found]


def problems(data: bytes | str, form: str = ".jsonl") -> list[str]:
    data = data.encode() if isinstance(data, str) else data
    return [problem.text for problem in read_manifest(data, "list", form)[1]]


@pytest.mark.parametrize(
    ("line", "want"),
    [
        ('{"portrait": "a.jpg"}', {"portrait": ["a.jpg"]}),
        ('{"portrait": "a;b.jpg", "out": null}', {"portrait": ["a;b.jpg"]}),
        (
            '{"portraits": ["a.jpg", "b.jpg"], "fuse": "mean"}',
            {"portrait": ["a.jpg", "b.jpg"], "fuse": "mean"},
        ),
        ('{"portraits": "a.jpg; b.jpg"}', {"portrait": ["a.jpg", "b.jpg"]}),
        ('{"portrait": "a", "face_at": [1, 2.5]}', {"portrait": ["a"], "face_at": "1,2.5"}),
        ('{"portrait": "a", "face_at": "1,2.5"}', {"portrait": ["a"], "face_at": "1,2.5"}),
        (
            '{"portrait": "a", "landmarks": [[1, 2], [3, 4]]}',
            {"portrait": ["a"], "landmarks": "1,2,3,4"},
        ),
        ('{"portrait": "a", "box": [1, 2, 3, 4]}', {"portrait": ["a"], "box": ["1,2,3,4"]}),
        (
            '{"portrait": "a", "box": [[1, 2, 3, 4], "5,6,7,8"]}',
            {"portrait": ["a"], "box": ["1,2,3,4", "5,6,7,8"]},
        ),
        (
            '{"portrait": "a", "with_uncond": true, "face_index": 2}',
            {"portrait": ["a"], "with_uncond": True, "face_index": 2},
        ),
        (
            '{"portrait": "\\u2028.jpg", "det_threshold": 0.25}',
            {"portrait": ["\u2028.jpg"], "det_threshold": 0.25},
        ),
    ],
)
def test_json_lines(line, want):
    assert rows(f"\n{line}\r\n\n") == [want]


def test_csv_with_a_mark_empty_lines_and_quoted_newlines():
    text = '\ufeffportrait,out,with_uncond,box,face_index\r\n\r\n"a, b.jpg",one,yes,"1,2,3,4;5,6,7,8",\r\n,,,,\r\n"c\nd.jpg",,,,3\r\n'
    found, wrong = read_manifest(text.encode(), "list", ".csv")
    assert wrong == []
    assert [(row.line, row.values) for row in found] == [
        (
            3,
            {
                "portrait": ["a, b.jpg"],
                "out": "one",
                "with_uncond": True,
                "box": ["1,2,3,4", "5,6,7,8"],
            },
        ),
        (5, {"portrait": ["c\nd.jpg"], "face_index": 3}),
    ]


def test_csv_with_line_ends_of_an_old_mac():
    assert rows("portrait,dtype\ra.jpg,f32\rb.jpg,", ".csv") == [
        {"portrait": ["a.jpg"], "dtype": "f32"},
        {"portrait": ["b.jpg"]},
    ]


def test_every_problem_is_listed_with_its_line():
    text = "\n".join(
        [
            '{"portrait": "a.jpg"}',
            '{"portrait": "b.jpg", "fce_index": 1}',
            "",
            "not json",
            '{"out": "x"}',
            '{"portrait": "a", "portraits": ["b"]}',
            '{"portrait": "a", "face_index": "two"}',
            '{"portrait": "a", "portrait": "b"}',
            '["a.jpg"]',
            '{"portrait": ""}',
            '{"portrait": "a", "with_uncond": "maybe"}',
        ]
    )
    found, listed_problems = read_manifest(text.encode(), "list", ".jsonl")
    assert [row.line for row in found] == [1]
    assert [problem.number for problem in listed_problems] == [2, 4, 5, 6, 7, 8, 9, 10, 11]
    wrong = [problem.text for problem in listed_problems]
    assert wrong[0].startswith("line 2: ")
    assert "unknown column 'fce_index'" in wrong[0]
    assert "names no portrait" in wrong[2]
    assert "both portrait and portraits" in wrong[3]
    assert "expected a whole number" in wrong[4]
    assert "twice" in wrong[5]
    assert "expected true or false" in wrong[8]


@pytest.mark.parametrize(
    ("data", "form", "message"),
    [
        (b"", ".jsonl", "holds no row"),
        (b"portrait,out\n", ".csv", "holds no row"),
        ("portrait\na.jpg".encode("utf-16"), ".csv", "is UTF-16; save it as UTF-8"),
        (b"portrait\na.jpg\n\0\n", ".csv", "line 3 holds a NUL byte"),
        (b'{"portrait": "a"}\n{"portrait": "\xff"}', ".jsonl", "line 2 is not UTF-8"),
        (b"portrait,portrait\na,b", ".csv", "line 1: the column 'portrait' is named twice"),
        (
            b"portrait,fce\na,b",
            ".csv",
            "line 1: unknown column 'fce'; expected some of portrait, portraits, out",
        ),
    ],
)
def test_what_is_no_manifest_is_one_line(data, form, message):
    with pytest.raises(InputError, match=message):
        read_manifest(data, "list", form)


@pytest.mark.parametrize(
    ("data", "form", "message"),
    [
        (b'{"portrait": "' + b"a" * (10 << 20) + b'"}', ".jsonl", "line 1: is longer than 1 MiB"),
        (b"portrait\n" + b"a" * (10 << 20), ".csv", "line 2: is not CSV"),
        (b"[" * 100_000, ".jsonl", "line 1: is not JSON (it is nested more than 64 deep)"),
        (b'{"portrait": "a", "face_index": ' + b"9" * 5000 + b"}", ".jsonl", "line 1: is not JSON"),
        (b'{"portrait": "a", "face_index": 1e400}', ".jsonl", "the number 1e400 is too large"),
        (b'{"portrait": "a", "det_threshold": NaN}', ".jsonl", "NaN is not a number"),
        (b'{"portrait": "\\ud800"}', ".jsonl", "a text holds half a character"),
        (b'{"portrait": "a\\u0000"}', ".jsonl", "expected the name of a picture"),
        (b'portrait\n"a', ".csv", "line 2: is not CSV"),
        (b"portrait\na,b", ".csv", "line 2: has 2 cells, the header has 1"),
    ],
    ids=range(10),
)
def test_odd_rows_are_one_line_each(data, form, message):
    found = problems(data, form)
    assert len(found) == 1
    assert message in found[0]
    assert len(found[0]) < 500


def test_a_long_list_of_problems_is_cut():
    many = [Problem.of_line(number, "x") for number in range(1000, 0, -1)]
    assert len(listed(many)) == MAX_PROBLEMS + 1
    assert listed(many)[:2] == ["line 1: x", "line 2: x"]
    assert listed(many)[-1] == "and 900 more"
    assert listed([Problem("x")] * MAX_PROBLEMS) == ["x"] * MAX_PROBLEMS
    assert MAX_LINE < 10 << 20  # or the test above tests nothing


_cells = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.one_of(st.integers(), st.text(max_size=3))),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from([*COLUMNS, "other"]), _cells, max_size=5),
        min_size=1,
        max_size=4,
    )
)
def test_any_json_is_rows_or_problems(records):
    found, wrong = read_manifest("\n".join(map(json.dumps, records)).encode(), "list", ".jsonl")
    lines = {row.line for row in found} | {problem.number for problem in wrong}
    assert lines == set(range(1, len(records) + 1))
    assert all(isinstance(row.values["portrait"], list) and row.values["portrait"] for row in found)


@settings(max_examples=250, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=80),
        st.text(max_size=80).map(lambda text: f"portrait,out\n{text}".encode(errors="replace")),
    )
)
@pytest.mark.parametrize("form", [".jsonl", ".csv"])
def test_any_bytes_are_rows_or_one_line(form, data):
    try:
        found, wrong = read_manifest(data, "list", form)
    except InputError as error:
        found, wrong = [], [Problem(str(error))]
    assert found or wrong
    assert not any("\n" in problem.text for problem in wrong)


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_excels_other_separators_are_named(separator, name):
    problems: list[Problem] = []
    text = separator.join(("portrait", "out")) + "\r\n" + separator.join(("a.png", "b"))
    assert list(csv_records(text, problems)) == []
    [problem] = problems
    assert f"line 1: its columns are separated by {name}, as Excel does" in problem.text
