"""JSON that anybody may have written: what is JSON comes out, and what is not is a reason."""

from __future__ import annotations

import pytest

from pulid_extract.shared.json_text import (
    MAX_COMMAS,
    MAX_CONTAINERS,
    MAX_DEPTH,
    MAX_DIGITS,
    read_json,
    read_object,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"\xef\xbb\xbf{}", {}),
        (
            '{"a": [1, 2.5, null, true, "\\u00e9\\ud83d\\ude00"]}',
            {"a": [1, 2.5, None, True, "é😀"]},
        ),
        ("9" * MAX_DIGITS, int("9" * MAX_DIGITS)),
        ("-1e308", -1e308),
        ('"\\\\ud800"', "\\ud800"),
    ],
)
def test_what_is_json(text, value):
    assert read_json(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, f"nested more than {MAX_DEPTH} deep"),
        ('{"a":' * 90_000 + "1" + "}" * 90_000, f"nested more than {MAX_DEPTH} deep"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"nested more than {MAX_DEPTH} deep"),
        ("9" * 5_000, "a number has 5000 digits"),
        ("-1e400", "the number -1e400 is too large"),
        ("[NaN]", "NaN is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ('{"a": 1, "a": 2}', "a name is named twice"),
        ('["\\ud800"]', "a text holds half a character"),
        ('{"\\uDFFF": 1}', "a text holds half a character"),
        ("\udcff", "it is not UTF-8"),
        (b"\xff\xfe[\0]\0", "it is not UTF-8"),
        (b"", "Expecting value, at character 1"),
        ("[" + "[]," * MAX_CONTAINERS + "[]]", "more than 1000000 lists and objects"),
        ("[" + "1," * (MAX_COMMAS + 1) + "1]", "more than 4000000 commas"),
    ],
    ids=range(15),
)
def test_what_is_none(text, reason):
    with pytest.raises(ValueError, match=reason):
        read_json(text)


def test_the_deepest_that_is_read():
    value = read_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    for _ in range(MAX_DEPTH - 1):
        [value] = value
    assert value == []


def test_an_object_is_asked_for():
    assert read_object('{"a": 1}') == {"a": 1}
    with pytest.raises(ValueError, match="not an object"):
        read_object("[1]")
