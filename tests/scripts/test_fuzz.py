"""Hostile input, a fixed amount of it: every reader takes it or refuses it by one line. More of it:
`python -m fuzz` (docs/security.md).
"""

from __future__ import annotations

import contextlib
import json
import struct
from random import Random

import pytest
from fuzz import mutations
from fuzz.good_input import FLUX, safetensors
from fuzz.readers import make_readers
from fuzz.trying import try_once
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pulid_extract.batch import manifest as portraits
from pulid_extract.shared.errors import PulidError, WeightsError
from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.json_text import read_json
from pulid_extract.shared.model_files import read_header
from pulid_generate.errors import RequestError
from pulid_generate.inspection.inspect import inspect
from pulid_generate.lora.peft import METADATA, read_peft
from pulid_generate.pictures.description import parse_description
from pulid_generate.rows import manifest as rows
from pulid_generate.rows.names import EXAMPLES, NamePattern, check_name

MANY = settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

odd_numbers = st.sampled_from([-1, 0, 1, 2, 64, 2**31, 2**63, 2**64, 10**39, 1e308, True, 2.0])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | odd_numbers
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
dimensions = st.lists(st.integers(0, 9) | odd_numbers, max_size=9) | values
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "F8_E4M3", "I8", "F4", "X"]) | values,
        "shape": dimensions,
        "data_offsets": st.lists(st.integers(0, 64) | odd_numbers, min_size=1, max_size=3) | values,
    }
)
names = st.sampled_from(
    [
        *(*FLUX, "pulid_ca.0.to_q.weight", "a.lora_A.weight", "__metadata__"),
        f"double_blocks.{'9' * 5000}.a",
    ]
) | st.text(max_size=30)
hostile_names = st.text(max_size=40) | st.sampled_from(
    [
        *("~nobody-here/x", "a" * 5000, "\0", "\ud800", "a\udcff", "../x", "/x"),
        "{seed:" + "9" * 300 + "}",
    ]
)


@MANY
@given(header=st.dictionaries(names, entries | values, max_size=4), data=st.binary(max_size=64))
def test_headers(header, data, tmp_path):
    text = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    try:
        read = read_header(path)
    except WeightsError:
        return
    # what was taken is of the types that it says
    for kind, shape in read.tensors.values():
        assert type(kind) is str
        assert all(type(length) is int and length >= 0 for length in shape)
    try:
        json.dumps(inspect(path).as_dict())
        assert all(line.isprintable() for line in inspect(path).as_text().splitlines())
    except PulidError:
        pass


@MANY
@given(
    record=st.dictionaries(
        st.sampled_from(["prompt", "seed", "identity", "lora", "width", "pulid_id_weight"])
        | st.sampled_from(["portrait", "box", "face_index", "output", "fuse"]),
        values | hostile_names,
        max_size=4,
    )
)
def test_manifests(record, tmp_path):
    data = json.dumps(record).encode() + b"\n" + json.dumps(list(record)).encode()
    for read in (
        lambda: rows.read_manifest(data, "rows", ".jsonl", tmp_path),
        lambda: portraits.read_manifest(data, "rows", ".jsonl"),
        lambda: portraits.read_manifest(data, "rows", ".csv"),
    ):
        try:
            _, problems = read()
        except PulidError:
            continue
        assert all(problem.text.isprintable() for problem in problems)


@MANY
@given(told=values, prefix=st.sampled_from(["", "transformer.", "text_encoder."]))
def test_metadata(told, prefix, tmp_path):
    text = json.dumps({f"{prefix}lora_alpha": told, f"{prefix}alpha_pattern": told})
    try:
        for settings_of_model in read_peft(tmp_path / "a.safetensors", {METADATA: text}).values():
            settings_of_model.alpha_of("transformer_blocks.0.attn.to_q")
    except WeightsError:
        pass
    with contextlib.suppress(RequestError):
        parse_description(json.dumps({"pulid_generate": told}))


@MANY
@given(name=hostile_names)
def test_names(name):
    for read in (path_of, check_name, lambda text: NamePattern(text).name(EXAMPLES)):
        assert try_once("names", read, name) is None


@MANY
@given(value=values)
def test_json_comes_back(value):
    try:
        # NaN and infinity are no JSON
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        return
    if "\\ud" in text or any(digits.isdigit() and len(digits) > 40 for digits in text.split()):
        return
    assert read_json(text) == value


def test_every_reader_takes_it_or_says_why(tmp_path):
    found = []
    for reader in make_readers(tmp_path):
        for number in range(60):
            case = reader.case(Random(f"tests:{number}"))
            if finding := try_once(reader.name, reader.read, case):
                found.append(f"{finding.reader}: {finding.what} ({number})")
    assert not found, "\n".join(found)


def test_good_input_is_taken(tmp_path):
    """Or the cases would try nothing but the first check."""
    for reader in make_readers(tmp_path):
        taken = 0
        for good in reader.good:
            try:
                reader.read(good)
                taken += 1
            except PulidError:
                pass
        assert taken or reader.name in NEEDS_MORE, reader.name


# a vocabulary of four pieces, files that are not there
NEEDS_MORE = ("GGUF's vocabulary", "--identity", "--lora", "tags of a prompt")


def test_what_goes_wrong_is_found():
    def read(value: bytes) -> None:
        if value.startswith(b"a"):
            raise KeyError(value)
        raise WeightsError("expected")

    assert try_once("a reader", read, b"b") is None
    finding = try_once("a reader", read, b"a")
    assert finding is not None
    assert finding.what.startswith("KeyError at tests/scripts/test_fuzz.py:")


@pytest.mark.parametrize("mutate", [mutations.mutate_bytes, mutations.mutate_header])
def test_the_same_seed_gives_the_same_input(mutate):
    good = safetensors(FLUX)
    cases = [mutate(good, Random(f"1:{number}")) for number in range(20)]
    assert cases == [mutate(good, Random(f"1:{number}")) for number in range(20)]
    assert len(set(cases)) > 15
