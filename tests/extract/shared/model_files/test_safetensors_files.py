"""Headers of safetensors files: every type and number in them is what the format says, or the file
is refused by one line. What is taken is what the safetensors library takes.
"""

from __future__ import annotations

import json
import struct

import pytest
from safetensors import SafetensorError, safe_open

from pulid_extract.shared.errors import WeightsError
from pulid_extract.shared.model_files import read_header

GOOD = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def write(path, header, data=bytes(24)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(**changed):
    return {"a": {**GOOD, **changed}}


TAKEN = {
    "plain": entry(),
    "metadata": {"__metadata__": {"format": "pt"}, **entry()},
    "no metadata": {"__metadata__": None, **entry()},
    "another type": entry(dtype="F6_E2M3", shape=[32]),
    "nothing in it, of any length": {
        "b": {"dtype": "F16", "shape": [0, 7], "data_offsets": [24, 24]},
        **entry(),
    },
    "an unknown key": entry(origin="here"),
}
REFUSED = {
    "shape is a number": (entry(shape=6), "shape of a is 6"),
    "shape of words": (entry(shape=["2", "3"]), "shape of a is"),
    "shape of floats": (entry(shape=[2.0, 3.0]), "shape of a is"),
    "shape of booleans": (entry(shape=[True, 6]), "shape of a is"),
    "negative": (entry(shape=[-2, -3]), "shape of a is"),
    "overflowing": (entry(shape=[2**40, 2**40, 0], data_offsets=[0, 0]), "shape of a is"),
    "many axes": (entry(shape=[1] * 9), "shape of a is"),
    "infinite": (b'{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}', "too large"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 24]}}, "a has no dtype, shape"),
    "a list": ({"a": [1]}, "a has no dtype, shape"),
    "type is a list": (entry(dtype=["F32"]), "type of a is"),
    "type is an object": (entry(dtype={}), "type of a is"),
    "type is a page": (entry(dtype="F" * 100_000), "type of a is"),
    "one offset": (entry(data_offsets=[24]), "offsets of a are"),
    "offsets are words": (entry(data_offsets=["0", "24"]), "offsets of a are"),
    "offsets run backwards": (entry(data_offsets=[24, 0]), "offsets of a are"),
    "another size": (entry(shape=[2, 2]), "a is 2x2 of F32 in 24 bytes"),
    "a gap": (entry(shape=[3, 1], data_offsets=[12, 24]), "a starts at byte 12, expected 0"),
    "on each other": ({**entry(), "b": GOOD}, "b starts at byte 0, expected 24"),
    "metadata of numbers": ({"__metadata__": {"a": 1}, **entry()}, "__metadata__ is not"),
    "metadata is a list": ({"__metadata__": ["a"], **entry()}, "__metadata__ is not"),
    "half a character": (b'{"\\ud800": {}}', "half a character"),
    "not UTF-8": (b'{"\xff": {}}', "not UTF-8"),
    "5,000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "5000 digits"),
}


@pytest.mark.parametrize("header", TAKEN.values(), ids=TAKEN)
def test_what_is_taken(header, tmp_path):
    path = write(tmp_path / "a.safetensors", header)
    read = read_header(path)
    with safe_open(path, "np") as file:
        assert read.names == set(file.keys())
        assert dict(read.metadata) == (file.metadata() or {})
    assert read.tensors["a"][1] == tuple(header["a"]["shape"])


@pytest.mark.parametrize(("header", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(header, reason, tmp_path, generate):
    path = write(tmp_path / "a.safetensors", header)
    with pytest.raises(WeightsError, match=reason):
        read_header(path)
    with pytest.raises(SafetensorError), safe_open(path, "np"):
        pass
    # one line, whoever asks
    assert "header is damaged" in generate("inspect", path).error


def test_a_name_that_stands_twice_is_refused(tmp_path):
    one = json.dumps(GOOD)
    path = write(tmp_path / "a.safetensors", f'{{"a": {one}, "a": {one}}}'.encode())
    with pytest.raises(WeightsError, match="a name is named twice"):
        read_header(path)


def test_an_index_and_a_configuration_of_other_types(tmp_path):
    write(tmp_path / "model.safetensors", entry())
    config, index = tmp_path / "config.json", tmp_path / "model.safetensors.index.json"
    for text in ("[1]", '{"a": ' * 500, '{"a": NaN}', "\0", '{"a": "\\ud800"}'):
        config.write_text(text)
        with pytest.raises(WeightsError, match=r"config\.json: damaged JSON"):
            read_header(tmp_path)
    config.write_text("{}")
    for names in (["a"], {"a": 1}, {"a": "../a"}, {"a": "a\0"}, {"a": "x" * 5000}, {"a": None}):
        index.write_text(json.dumps({"weight_map": names}))
        with pytest.raises(WeightsError, match="damaged index"):
            read_header(tmp_path)
