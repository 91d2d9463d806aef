"""The .pulidembd format: golden bytes, gguf-py on both sides, one bad file for each refusal, and
random damage.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seeded.tensors import seeded

from pulid_extract import PulidError, decode_embedding, encode_embedding, read_embedding
from pulid_extract.shared.embedding_file import MAX_FILE_BYTES
from pulid_extract.shared.errors import EmbeddingError

TOKENS = seeded("tokens", (32, 2048), 1.2)
SMALL = seeded("small", (3, 5))

# encode_embedding(SMALL, SMALL[:1], provenance={"tool": "test", "face": "box"}): whoever changes
# these bytes changes the format. With the recogniser, a key that came later:
GOLDEN_WITH_RECOGNIZER = "c07b1469e6dc9d48943eb33c02d546800ded18c4945dae0adfc5f0a0694296f5"
GOLDEN_SHA256 = "9c2d4ef15a220377af30cf1293577b195983bed2deed98d2baab1d1bb1d61374"


def by_gguf_py(path, tensors, architecture="pulid", version: int | None = 1, **strings) -> bytes:
    writer = gguf.GGUFWriter(path, arch=architecture)
    if version is not None:
        writer.add_uint32("pulid.version", version)
    for key, value in sorted(strings.items()):
        writer.add_string(f"pulid.{key}", value)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


# ------------------------------------------------------------------------------------- golden bytes


def test_golden_bytes():
    data = encode_embedding(SMALL, SMALL[:1], provenance={"tool": "test", "face": "box"})
    assert data[:24] == b"GGUF" + struct.pack("<IQQ", 3, 2, 4)
    assert hashlib.sha256(data).hexdigest() == GOLDEN_SHA256
    assert data == encode_embedding(SMALL, SMALL[:1], provenance={"face": "box", "tool": "test"})
    assert decode_embedding(data).recognizer is None
    with_key = {"tool": "test", "face": "box", "recognizer.sha256": "1f" * 32}
    data = encode_embedding(SMALL, SMALL[:1], provenance=with_key)
    assert hashlib.sha256(data).hexdigest() == GOLDEN_WITH_RECOGNIZER
    assert decode_embedding(data).recognizer == "1f" * 32
    assert data != encode_embedding(SMALL, SMALL[:1], provenance={"face": "box", "tool": "tess"})


@pytest.mark.parametrize(("dtype", "numpy_type"), [("f16", np.float16), ("f32", np.float32)])
def test_the_bytes_are_gguf_pys(dtype, numpy_type, tmp_path):
    arrays = {
        "pulid_id": TOKENS.astype(numpy_type),
        "pulid_uncond": SMALL_AS_WIDE.astype(numpy_type),
    }
    theirs = by_gguf_py(tmp_path / "x", arrays, face="box", tool="test")
    assert (
        encode_embedding(
            TOKENS, SMALL_AS_WIDE, dtype=dtype, provenance={"tool": "test", "face": "box"}
        )
        == theirs
    )


SMALL_AS_WIDE = seeded("uncond", (3, 2048))


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
def test_gguf_py_reads_ours(dtype, tmp_path):
    (tmp_path / "x").write_bytes(
        encode_embedding(TOKENS, SMALL_AS_WIDE, dtype=dtype, provenance={"tool": "t"})
    )
    reader = gguf.GGUFReader(tmp_path / "x")
    assert reader.fields["general.architecture"].contents() == "pulid"
    assert reader.fields["pulid.version"].contents() == 1
    assert [(t.name, list(t.shape)) for t in reader.tensors] == [
        ("pulid_id", [2048, 32]),
        ("pulid_uncond", [2048, 3]),
    ]
    theirs = gguf.quants.dequantize(reader.tensors[0].data, reader.tensors[0].tensor_type)
    np.testing.assert_array_equal(theirs, decode_embedding((tmp_path / "x").read_bytes()).tokens)


# -------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize(("dtype", "error"), [("f32", 0), ("f16", 2**-11), ("bf16", 2**-8)])
def test_round_trip(dtype, error, tmp_path):
    data = encode_embedding(TOKENS, SMALL_AS_WIDE, dtype=dtype, provenance={"face": "largest"})
    (tmp_path / "me.pulidembd").write_bytes(data)
    again = read_embedding(tmp_path / "me.pulidembd")
    assert again.tokens.dtype == np.float32
    assert np.abs(again.tokens - TOKENS).max() <= error * np.abs(TOKENS).max()
    assert again.uncond is not None
    assert again.uncond.shape == (3, 2048)
    assert (again.dtype, dict(again.provenance)) == (dtype, {"face": "largest"})
    assert again.sha256 == hashlib.sha256(data).hexdigest()


def test_bfloat16_rounds_as_torch_does():
    import torch

    values = np.concatenate(
        [seeded("b", (1, 4096), 10.0), [[0.0] * 4092 + [1e-40, -0.0, 3.3895e38, 1.00390625]]]
    ).astype(np.float32)
    ours = decode_embedding(encode_embedding(values, dtype="bf16")).tokens
    np.testing.assert_array_equal(ours, torch.from_numpy(values).bfloat16().float().numpy())


@pytest.mark.parametrize("rows", [1, 64, 1024])
def test_token_counts_that_are_legal(rows):
    assert decode_embedding(encode_embedding(np.ones((rows, 7)))).tokens.shape == (rows, 7)


@pytest.mark.parametrize(
    ("tokens", "uncond", "options", "message"),
    [
        (np.ones(4), None, {}, "rank 1"),
        (np.ones((1, 2, 3)), None, {}, "rank 3"),
        (np.ones((0, 8)), None, {}, "0 tokens"),
        (np.ones((1025, 8)), None, {}, "1025 tokens"),
        (np.ones((2, 0)), None, {}, "width 0"),
        (np.ones((2, 8)), np.ones((2, 9)), {}, "has width 9"),
        (np.full((2, 8), np.nan), None, {}, "16 values that are NaN"),
        (np.full((2, 8), 70000.0), None, {}, "NaN or infinite"),  # overflows half precision
        (np.ones((2, 8)), np.full((2, 8), np.inf), {}, "pulid_uncond"),
        (np.ones((2, 8)), None, {"dtype": "q8_0"}, "q8_0"),
    ],
)
def test_what_is_not_written(tokens, uncond, options, message):
    with pytest.raises(EmbeddingError, match=message):
        encode_embedding(tokens, uncond, **options)


def test_large_values_fit_the_wider_types():
    for dtype in ("bf16", "f32"):
        assert np.isfinite(
            decode_embedding(encode_embedding(np.full((2, 8), 70000.0), dtype=dtype)).tokens
        ).all()


# ----------------------------------------------------------------------------------------- refusals


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, value: str | int) -> bytes:
    return string(name) + (
        struct.pack("<II", 4, value)
        if isinstance(value, int)
        else struct.pack("<I", 8) + string(value)
    )


def info(name="pulid_id", shape=(8, 2), type_=0, offset=0) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, type_, offset)


KEYS = [key("general.architecture", "pulid"), key("pulid.version", 1)]


def build(
    keys=None, infos=None, body=bytes(4096), version=3, tensors=None, pairs=None, magic=b"GGUF"
) -> bytes:
    keys = KEYS if keys is None else keys
    infos = [info()] if infos is None else infos
    counts = (len(infos) if tensors is None else tensors, len(keys) if pairs is None else pairs)
    header = magic + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(infos)
    return header.ljust(-(-len(header) // 32) * 32, b"\0") + body


HUGE = 2**63
BAD = {
    "empty": (b"", "is empty; did the command that writes it fail"),
    "not gguf": (b"PK\x03\x04" + bytes(100), "not a gguf file"),
    "an HTML page": (b"<!DOCTYPE html>", "HTML page"),
    "gguf version 2": (build(version=2), "gguf version 2"),
    "big-endian": (build(version=3 << 24), "big-endian"),
    "only the magic": (b"GGUF", "truncated"),
    "architecture missing": (build(keys=KEYS[1:]), "general.architecture is None"),
    "another architecture": (build(keys=[key("general.architecture", "flux"), KEYS[1]]), "is 'flux', expected 'pulid'"),
    "version missing": (build(keys=KEYS[:1]), "pulid.version is None"),
    "version 2": (build(keys=[KEYS[0], key("pulid.version", 2)]), "pulid.version is 2"),
    "version true": (build(keys=[KEYS[0], string("pulid.version") + struct.pack("<IB", 7, 1)]), "pulid.version is True"),
    "a key twice": (build(keys=[*KEYS, KEYS[1]]), "stands twice"),
    "no tensor": (build(infos=[]), r"'pulid_id' is missing \(tensors: none\)"),
    "another tensor": (build(infos=[info("other")]), r"missing \(tensors: other\)"),
    "a tensor twice": (build(infos=[info(), info()]), "stands twice"),
    "rank 1": (build(infos=[info(shape=(8,))]), "rank 1"),
    "rank 3": (build(infos=[info(shape=(8, 2, 1))]), "rank 3"),
    "rank 2**32-1": (build(infos=[string("pulid_id") + struct.pack("<I", 2**32 - 1)]), "rank 4294967295"),
    "no tokens": (build(infos=[info(shape=(8, 0))]), "0 tokens"),
    "too many tokens": (build(infos=[info(shape=(8, 1025))]), "1025 tokens"),
    "no width": (build(infos=[info(shape=(0, 2))]), "width 0"),
    "an integer type": (build(infos=[info(type_=26)]), "ggml type 26"),
    "a quantised type": (build(infos=[info(type_=8)]), "ggml type 8"),
    "NaN": (build(body=struct.pack("<f", np.nan) + bytes(100)), "1 values that are NaN"),
    "infinite": (build(body=struct.pack("<f", -np.inf) + bytes(100)), "1 values"),
    "infinite in half": (build(infos=[info(type_=1)], body=struct.pack("<e", np.inf) + bytes(100)), "1 values"),
    "infinite in bf16": (build(infos=[info(type_=30)], body=b"\x80\x7f" + bytes(100)), "1 values"),
    "truncated data": (build(body=bytes(63)), "it is truncated"),
    "an offset outside": (build(infos=[info(offset=10**6)]), "it is truncated"),
    "a huge offset": (build(infos=[info(offset=HUGE)]), "it is truncated"),
    "a huge width": (build(infos=[info(shape=(HUGE, 1024))]), "it is truncated"),
    "a huge token count": (build(infos=[info(shape=(1, HUGE))]), "tokens, expected 1 to 1024"),
    "a huge key count": (build(pairs=HUGE), "claims"),
    "a huge tensor count": (build(tensors=HUGE), "claims"),
    "a huge string": (build(keys=[struct.pack("<Q", HUGE)]), "truncated or damaged"),
    "a huge array": (build(keys=[*KEYS, string("a") + struct.pack("<IIQ", 9, 4, HUGE)]), "truncated or damaged"),
    "a huge array of strings": (build(keys=[*KEYS, string("a") + struct.pack("<IIQ", 9, 8, HUGE)]), "truncated|UTF-8"),
    "nested arrays": (build(keys=[*KEYS, string("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9]), "nested too deep"),
    "an unknown value type": (build(keys=[*KEYS, string("a") + struct.pack("<I", 99)]), "value type 99"),
    "a key that is no UTF-8": (build(keys=[*KEYS, string(b"\xff\xfe") + struct.pack("<II", 4, 1)]), "not UTF-8"),
    "an alignment of 3": (build(keys=[*KEYS, key("general.alignment", 3)]), "power of two"),
    "an alignment of 0": (build(keys=[*KEYS, key("general.alignment", 0)]), "power of two"),
    "uncond of another width": (build(infos=[info(), info("pulid_uncond", (9, 2), offset=64)]), "has width 9"),
    "uncond with NaN": (
        build(infos=[info(), info("pulid_uncond", (8, 1), offset=64)], body=bytes(64) + b"\xff" * 64),
        "'pulid_uncond' has 8 values",
    ),
}  # fmt: skip


def test_the_file_that_the_bad_ones_are_made_from_is_good():
    assert decode_embedding(build()).tokens.shape == (2, 8)
    assert decode_embedding(
        build(keys=[*KEYS, key("general.alignment", 64)], body=bytes(8192))
    ).tokens.shape == (2, 8)


@pytest.mark.parametrize("name", BAD)
def test_refusals(name):
    data, message = BAD[name]
    with pytest.raises(EmbeddingError, match=message) as caught:
        decode_embedding(data, "me.pulidembd")
    assert str(caught.value).startswith("me.pulidembd: ")
    assert "\n" not in str(caught.value)


def test_hostile_sizes_allocate_nothing():
    import tracemalloc

    for name, (data, _) in BAD.items():
        tracemalloc.start()
        with pytest.raises(EmbeddingError):
            decode_embedding(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20, name


def test_a_file_too_large_is_refused(tmp_path):
    with open(tmp_path / "large", "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse
    with pytest.raises(EmbeddingError, match="larger than 256 MiB"):
        read_embedding(tmp_path / "large")


def test_missing_and_folder(tmp_path):
    with pytest.raises(EmbeddingError, match="no such file"):
        read_embedding(tmp_path / "none.pulidembd")
    with pytest.raises(PulidError, match="cannot be read"):
        read_embedding(tmp_path)


GOOD = encode_embedding(SMALL, SMALL[:1], provenance={"tool": "test"})


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_random_damage_raises_nothing_else(data):
    """Bytes changed, cut, doubled: either an Embedding or an EmbeddingError, never another
    exception.
    """
    mutated = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(len(mutated) - 1, 0)))
        match data.draw(st.integers(0, 3)):
            case 0:
                mutated[place : place + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case 1:
                mutated[place : place + 8] = struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1)))
            case 2:
                del mutated[place:]
            case 3:
                mutated[place:place] = mutated[place : place + 16]
    try:
        embedding = decode_embedding(bytes(mutated))
    except EmbeddingError:
        return
    assert np.isfinite(embedding.tokens).all()
    assert embedding.tokens.ndim == 2


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_random_headers_raise_nothing_else(tail):
    with contextlib.suppress(EmbeddingError):
        decode_embedding(b"GGUF\x03\0\0\0" + tail)
