"""Prompts: files, LoRA tags, and sd-cli's weights, against tables of what its code does."""

from __future__ import annotations

import io
import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulid_generate.errors import InputError, RequestError
from pulid_generate.request.prompts.prompt import (
    MAX_FILE_BYTES,
    read_prompt_file,
    refuse_lora_tags,
    take_lora_tags,
)
from pulid_generate.request.prompts.prompt_weights import Part, parse_weights

# -------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a cat", "a cat"),
        (b"a cat\n", "a cat"),
        (b"a cat\r\n\r\n", "a cat"),
        (b"\xef\xbb\xbfa cat\n", "a cat"),
        ("naïve\n日本語\n".encode(), "naïve\n日本語"),
        (b"one\r\ntwo", "one\ntwo"),
        (b"  kept spaces ", "  kept spaces "),
    ],
)
def test_a_prompt_file_is_its_text(tmp_path, monkeypatch, data, text):
    (tmp_path / "prompt.txt").write_bytes(data)
    assert read_prompt_file(tmp_path / "prompt.txt") == text
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert read_prompt_file("-") == text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no text"),
        (b" \n\n", "holds no text"),
        (b"caf\xe9", "byte 4 is not UTF-8"),
        ("a cat".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (b"a\0b", "a zero byte"),
        (b"x" * (MAX_FILE_BYTES + 1), "larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_prompt_is_refused(tmp_path, data, message):
    (tmp_path / "p").write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_prompt_file(tmp_path / "p")
    assert str(caught.value).startswith(f"{tmp_path / 'p'}: ")
    assert "\n" not in str(caught.value)


def test_prompt_files_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no such prompt file"):
        read_prompt_file(tmp_path / "none.txt")
    with pytest.raises(InputError, match="cannot be read"):
        read_prompt_file(tmp_path)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="standard input: is closed"):
        read_prompt_file("-")


def test_a_negative_prompt_may_be_empty(tmp_path):
    (tmp_path / "n").write_bytes(b"\n")
    assert read_prompt_file(tmp_path / "n", may_be_empty=True) == ""


# ---------------------------------------------------------------------------------------- LoRA tags


@pytest.mark.parametrize(
    ("prompt", "text", "tags"),
    [
        ("a cat", "a cat", ()),
        ("a cat<lora:style:0.8>", "a cat", (("style", 0.8),)),
        (
            "<lora:a:1> b <lora:c/d.safetensors:-0.5>e",
            " b e",
            (("a", 1.0), ("c/d.safetensors", -0.5)),
        ),
        ("<lora:a:1><lora:a:2>", "", (("a", 1.0), ("a", 2.0))),
        ("<lora: a : 1e-1 >", "", (("a", 0.1),)),
        ("a < lora, b > c <loran>", "a < lora, b > c <loran>", ()),
    ],
)
def test_lora_tags_leave_the_prompt(prompt, text, tags):
    assert take_lora_tags(prompt) == (text, tags)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a <lora:style>", "'<lora:style>' is not a LoRA tag; expected <lora:NAME:WEIGHT>"),
        ("a <lora:style:", "is not a LoRA tag"),
        ("a <LoRA:style:1>", "is not a LoRA tag"),
        ("<lora::1>", "is not a LoRA tag"),
        ("<lora: :1>", "names no LoRA"),
        ("<lora:a:b>", "the weight 'b' is not a number"),
        ("<lora:a:1:2>", "the weight '1:2' is not a number"),
        ("<lora:a:nan>", "the weight 'nan' is not a number"),
        ("<lora:a:1_0>", "the weight '1_0' is not a number"),
        ("<lora:|high_noise|a:1>", "video model"),
    ],
)
def test_a_tag_with_a_mistake_is_an_error_and_not_words(prompt, message):
    with pytest.raises(RequestError, match=message.replace("|", r"\|")) as caught:
        take_lora_tags(prompt)
    assert "\n" not in str(caught.value)


def test_a_negative_prompt_has_no_tags():
    refuse_lora_tags("blurry, low resolution")
    with pytest.raises(RequestError, match="tags belong in the prompt"):
        refuse_lora_tags("blurry <lora:a:1>")


# ------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("normal text", [("normal text", 1)]),
        ("", [("", 1)]),
        ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("[unbalanced", [("unbalanced", 1 / 1.1)]),
        (")a]", [(")a]", 1)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("(a:0.5)[b]", [("a", 0.5), ("b", 1 / 1.1)]),
        ("((a:2):3)", [("a", 6)]),
        ("([a])", [("a", 1.1 / 1.1)]),
        ("(a:-1)", [("a", -1)]),
        ("(a:+.5)", [("a", 0.5)]),
        ("(a:1.2.3)", [("a", 1.2)]),  # what strtof reads
        ("(a:1.5e1)", [("a:1.5e1", 1.1)]),  # no exponents: the colon is text
        ("(a: 1.3)", [("a: 1.3", 1.1)]),
        ("a:1.3) b", [("a b", 1)]),  # a weight without its bracket vanishes
        ("time 12:30", [("time 12:30", 1)]),
        (r"\(a\)", [(r"(a\)", 1)]),  # only the opening round bracket is unescaped
        (r"\[a\] \\ \x", [(r"\[a\] \\ \x", 1)]),
        ("a BREAK b", [("a ", 1), ("BREAK", -1), (" b", 1)]),
        ("(BREAK:2)", [("BREAK", -2)]),
        ("BREAKS aBc ABBA", [("BREAKS aBc ABBA", 1)]),
        # each match begins a new text, where a word may begin
        ("fooBREAK", [("foo", 1), ("BREAK", -1)]),
        ("naïve (日本語:1.3)\n", [("naïve ", 1), ("日本語", 1.3), ("\n", 1)]),
        ("(a:0)", [("a", 0)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
    ],
)
def test_weights_are_parsed_as_sd_cli_does(prompt, parts):
    ours = parse_weights(prompt)
    assert [part.text for part in ours] == [text for text, _ in parts]
    assert [part.weight for part in ours] == pytest.approx(
        [weight for _, weight in parts], rel=3e-7
    )
    assert all(part.weight == float(np.float32(part.weight)) for part in ours)


@pytest.mark.parametrize(
    "prompt",
    ["(a:.)", "(a:" + "9" * 50 + ")", "((a:9999999999999999999999):9999999999999999999999)"],
)
def test_a_weight_that_is_no_number_is_an_error(prompt):
    with pytest.raises(RequestError, match="weight"):
        parse_weights(prompt)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab (:)[]\\BREAK1.5-é", max_size=40))
def test_any_text_parses_and_loses_only_brackets_and_weights(prompt):
    try:
        parts = parse_weights(prompt)
    except RequestError:
        return
    assert parts
    rest = iter(prompt)
    assert all(letter in rest for part in parts for letter in part.text)  # in order, nothing added
    assert all(a.weight != b.weight for a, b in itertools.pairwise(parts))


@given(st.text(alphabet=st.characters(exclude_characters="()[]\\:B"), max_size=40))
def test_a_prompt_without_brackets_is_one_part(prompt):
    assert parse_weights(prompt) == [Part(prompt, 1.0)]
