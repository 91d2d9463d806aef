"""Files that mean no good: headers of GGUF, vocabularies and pictures, each refused by one line
that names the file; and what is taken from them, within its limits.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from seeded.unigram import write_unigram

from pulid_extract.shared.errors import InputError, WeightsError
from pulid_extract.shared.model_files import read_header
from pulid_extract.shared.picture_file import pillow_reads
from pulid_generate.errors import CheckpointError
from pulid_generate.files.storage import depth_of
from pulid_generate.models.charsmap import check_charsmap
from pulid_generate.models.tokenizers import read_t5_tokenizer

# -------------------------------------------------------------------------------------------- GGUF


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def gguf(*tensors: bytes, values: bytes = b"", counts: tuple[int, int] | None = None, body=64):
    header = struct.pack("<4sIQQ", b"GGUF", 3, *(counts or (len(tensors), 0)))
    header += values + b"".join(tensors)
    return header.ljust(-(-len(header) // 32) * 32, b"\0") + bytes(body)


def tensor(name: bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


A = tensor(b"a", (2, 2))
ARRAY = struct.pack("<I", 9)
BAD_GGUF = {
    "zero dimension": (gguf(tensor(b"a", (0, 2))), "a is 2x0: it holds no number"),
    "empty and quantised": (gguf(tensor(b"a", (256, 0), kind=12)), "it holds no number"),
    "not aligned": (gguf(tensor(b"a", (2,), offset=4)), "not a multiple of 32"),
    "one in another": (gguf(A, tensor(b"b", (2,))), "inside another tensor"),
    "overflow": (gguf(tensor(b"a", (2**63, 2**63))), "ends at byte"),
    "tensors": (gguf(counts=(2**63, 0)), "claims 9223372036854775808 tensors"),
    "values": (gguf(counts=(0, 2**40)), "claims 1099511627776 values"),
    "name": (gguf(struct.pack("<Q", 2**62), counts=(1, 0)), "bytes of one name"),
    "text": (
        gguf(values=text(b"a") + struct.pack("<IQ", 8, 2**62), counts=(0, 1)),
        "its header needs byte",
    ),
    "items": (
        gguf(values=text(b"a") + ARRAY + struct.pack("<IQ", 8, 2**40), counts=(0, 1)),
        "items of one array",
    ),
    "same value twice": (
        gguf(values=2 * (text(b"a") + struct.pack("<IB", 0, 1)), counts=(0, 2)),
        "two values of one name",
    ),
    "alignment": (
        gguf(A, values=text(b"general.alignment") + struct.pack("<IB", 7, 1), counts=(1, 1)),
        "alignment True",
    ),
    "type": (gguf(tensor(b"a", (2,), kind=9999)), "9999 is not a valid"),
}


def test_a_small_gguf_is_read(tmp_path):
    (tmp_path / "a.gguf").write_bytes(gguf(A))
    assert read_header(tmp_path / "a.gguf").tensors == {"a": ("F32", (2, 2))}


@pytest.mark.parametrize(("data", "reason"), BAD_GGUF.values(), ids=BAD_GGUF)
def test_gguf_headers_that_claim_what_cannot_be(data, reason, tmp_path):
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(WeightsError, match=rf"a\.gguf: damaged or truncated GGUF .*{reason}"):
        read_header(tmp_path / "a.gguf")


def test_one_name_does_not_make_a_billion_blocks():
    names = ["double_blocks.1.a", "double_blocks.999999999.a", f"double_blocks.{'9' * 5000}.a"]
    assert depth_of(names, "double_blocks") == 2


def test_a_pickle_that_unpacks_to_more_than_the_file_holds_is_refused(tmp_path):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "a.pt", "w", method) as archive:
            archive.writestr("a/data.pkl", pickle.dumps({"cls_token": 1}))
        if method == zipfile.ZIP_STORED:
            assert "cls_token" in read_header(tmp_path / "a.pt").names
    with pytest.raises(WeightsError, match="damaged or truncated torch checkpoint"):
        read_header(tmp_path / "a.pt")


# -------------------------------------------------------------------------------------- tokenizers


def vocabulary(folder, **changed):
    path = folder / "tokenizer.json"
    write_unigram(path, ("a", "cat"))
    told = json.loads(path.read_bytes())
    told["model"]["vocab"] = told["model"]["vocab"][:40]
    path.write_text(json.dumps(told | changed))
    return path


REGEX = {"type": "Replace", "content": " ", "pattern": {"Regex": "(a+)+b"}}
PRECOMPILED = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(bytes(64)).decode()}
BAD_VOCABULARIES = {
    "another model": ({"model": {"type": "BPE"}}, "its model is 'BPE', expected Unigram"),
    "no pieces": ({"model": {"type": "Unigram", "vocab": []}}, "not a list of 1 to"),
    "no scores": ({"model": {"vocab": [["a"]], "unk_id": 0}}, "is not a piece and its score"),
    "empty piece": ({"model": {"vocab": [["", 0.0]], "unk_id": 0}}, "is not a piece of 1 to"),
    "unknown": ({"model": {"vocab": [["a", 0.0]], "unk_id": 5}}, "its unk_id is '5'"),
    "added far away": ({"added_tokens": [{"id": 10**9, "content": "x"}]}, "added as number"),
    "normaliser": ({"normalizer": {"type": "Script"}}, "its part 'Script' is not read"),
    "pattern": ({"normalizer": REGEX}, "longer or richer than is read here"),
    "charsmap": ({"normalizer": PRECOMPILED}, "its charsmap is damaged"),
    "sequence": ({"normalizer": {"type": "Sequence", "normalizers": {}}}, "are not a list"),
    "splitter": ({"pre_tokenizer": {"type": "Metaspace", "replacement": "ab"}}, "Metaspace"),
    "no end": ({"post_processor": None}, "does not end a prompt with </s>"),
    "list": ({"post_processor": ["A"]}, "does not end a prompt with </s>"),
}


@pytest.mark.parametrize(("changed", "reason"), BAD_VOCABULARIES.values(), ids=BAD_VOCABULARIES)
def test_vocabularies_are_checked_before_the_library_sees_them(changed, reason, tmp_path):
    path = vocabulary(tmp_path, **changed)
    with pytest.raises(CheckpointError, match=rf"tokenizer\.json: not a T5 tokenizer.*{reason}"):
        read_t5_tokenizer(path)


@pytest.mark.parametrize(
    "changed",
    [
        # as the library would have it, 600 MB for each prompt
        {"padding": {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None,
                     "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}},
        {"truncation": {"max_length": 0, "stride": 5, "strategy": "LongestFirst",
                        "direction": "Right"}},
        {"decoder": {"type": "Nothing"}},
    ],
)  # fmt: skip
def test_what_reads_no_prompt_is_left_out(changed, tmp_path):
    tokenizer = read_t5_tokenizer(vocabulary(tmp_path, **changed))
    assert tokenizer.encode("a cat").ids == [3, 4, 1]


def test_a_template_that_makes_the_library_panic_is_made_anew(tmp_path):
    path = vocabulary(tmp_path)
    told = json.loads(path.read_bytes())
    told["post_processor"]["special_tokens"] = {}
    path.write_text(json.dumps(told))
    assert read_t5_tokenizer(path).encode("a cat").ids == [3, 4, 1]


def unit(offset: int = 0, label: int = 0, leaf: bool = False) -> int:
    return offset << 10 | leaf << 8 | label


def charsmap(units: dict[int, int], texts: bytes, length: int = 512) -> bytes:
    table = np.zeros(length, "<u4")
    for place, value in units.items():
        table[place] = value
    return struct.pack("<I", table.nbytes) + table.tobytes() + texts


def test_a_charsmap_whose_places_lie_in_it():
    # "a" (97): from the root at 256 to 256 ^ 97, whose leaf lies at 0 ^ that
    place = 256 ^ 97
    good = {0: unit(256), place: unit(place ^ 300, 97, leaf=True), 300: 2}
    check_charsmap(charsmap(good, b"x\0\xc3\xa9\0"))
    for units, texts, reason in (
        (good | {0: unit(600)}, b"x\0\xc3\xa9\0", "leads out"),
        (good | {300: 200}, b"x\0\xc3\xa9\0", "leads out"),
        (good | {300: 3}, b"x\0\xc3\xa9\0", "inside a character"),
        (good, b"x\0\xff\0", "not UTF-8"),
    ):
        with pytest.raises(ValueError, match=reason):
            check_charsmap(charsmap(units, texts))
    for data in (b"", bytes(8), struct.pack("<I", 2**31) + bytes(64), bytes(5 << 20)):
        with pytest.raises(ValueError, match="charsmap is damaged"):
            check_charsmap(data)


# ---------------------------------------------------------------------------------------- pictures


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: bytes) -> bytes:
    stored = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stored, "PNG")
    data = stored.getvalue()
    return data[:33] + b"".join(chunks) + data[33:]


@pytest.mark.parametrize(
    "data",
    [
        png(chunk(b"iCCP", b"name only")),
        png(chunk(b"iCCP", b"")),
        png(chunk(b"pHYs", b"\0")),
        png(chunk(b"fdAT", b"")),
        png()[:40],
        png()[:20],
    ],
    ids=["profile without a method", "empty profile", "short", "frame", "cut", "cut in the head"],
)
def test_pictures_on_which_pillow_stumbles_are_shown_or_one_line(data, tmp_path, generate):
    path = tmp_path / "p.png"
    path.write_bytes(data)
    done = generate("inspect", path)
    assert "Traceback" not in done.err
    if done.code:
        assert str(path) in done.error


@pytest.mark.parametrize("kind", [IndexError, EOFError, RuntimeError, SyntaxError, struct.error])
def test_whatever_pillow_raises_names_the_file(kind):
    reason = r"a\.png: cannot be read as a picture \(why\); save it"
    with pytest.raises(InputError, match=reason), pillow_reads("a.png"):
        raise kind("why")
    with pytest.raises(FileNotFoundError), pillow_reads("a.png"):
        raise FileNotFoundError
