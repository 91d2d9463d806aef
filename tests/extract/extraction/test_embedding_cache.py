"""The embedding cache: what opens an entry, what does not, how much there may be, and what is left
on disk.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pulid_extract.extraction import embedding_cache
from pulid_extract.extraction.embedding_cache import (
    MAGIC,
    CachedExtraction,
    EmbeddingCache,
    Key,
    key_of,
)
from pulid_extract.shared.cache_folder import default_folder
from pulid_extract.shared.embedding_file import encode_embedding
from pulid_extract.shared.errors import OutputError

PORTRAIT, OTHER = b"a portrait" * 100, b"another portrait" * 100


SETTINGS = {"dtype": "f16", "weights": {"eva_clip": ["00ff"]}}


STORED = CachedExtraction(
    b"GGUF the embedding of a face" * 500, {"portraits": [{"sha256": "beef"}], "cosines": None}
)


def test_an_entry_comes_back_as_it_was(tmp_path):
    cache, key = EmbeddingCache(tmp_path), key_of([PORTRAIT], SETTINGS)
    assert cache.get(key) is None
    cache.put(key, STORED)
    assert cache.get(key) == STORED
    (entry,) = cache.entries()
    assert entry.name == key.name
    assert entry.size == (cache.folder / entry.name).stat().st_size


@pytest.mark.parametrize(
    ("portraits", "settings"),
    [
        ([OTHER], SETTINGS),
        ([PORTRAIT, OTHER], SETTINGS),
        ([PORTRAIT + b"x"], SETTINGS),
        ([PORTRAIT], {**SETTINGS, "dtype": "f32"}),
        ([PORTRAIT], {**SETTINGS, "weights": {"eva_clip": ["00fe"]}}),
    ],
)
def test_another_portrait_option_or_weight_is_another_entry(portraits, settings, tmp_path):
    cache, key, other = (
        EmbeddingCache(tmp_path),
        key_of([PORTRAIT], SETTINGS),
        key_of(portraits, settings),
    )
    cache.put(key, STORED)
    assert other.name != key.name
    assert cache.get(other) is None
    # nor does the file open under the right name with the wrong secret
    assert cache.get(Key(key.name, other.secret)) is None


def test_the_order_of_portraits_is_no_matter():
    assert key_of([PORTRAIT, OTHER], SETTINGS) == key_of([OTHER, PORTRAIT], SETTINGS)


@pytest.mark.parametrize(
    "facts",
    [b"", b"{", b"[]", b"\xff", b"[" * 5000, b'{"a": NaN}'],
)
def test_an_entry_that_opens_and_is_no_json_is_dropped(facts, tmp_path, monkeypatch):
    cache, key = EmbeddingCache(tmp_path), key_of([PORTRAIT], SETTINGS)
    cache.put(key, STORED)
    plain = len(facts).to_bytes(8, "little") + facts
    nonce = bytes(embedding_cache.NONCE)
    hidden = embedding_cache._stream(plain, key, nonce)
    seal = embedding_cache._mac(nonce + hidden, key)
    (cache.folder / key.name).write_bytes(MAGIC + nonce + seal + hidden)
    assert cache.get(key) is None
    assert cache.entries() == []
    cache.put(key, STORED)
    assert cache.get(key) == STORED


def test_what_is_on_disk_says_nothing(tmp_path):
    """No embedding, no facts, no hash that a .pulidembd or a report holds; the same twice is not
    even the same file.
    """
    cache, key = EmbeddingCache(tmp_path), key_of([PORTRAIT], SETTINGS)
    cache.put(key, STORED)
    path = cache.folder / key.name
    first = path.read_bytes()
    cache.put(key, STORED)
    assert first != path.read_bytes()
    assert first.startswith(MAGIC)
    sha256 = hashlib.sha256(PORTRAIT)
    for word in (
        b"GGUF",
        b"embedding of",
        b"portraits",
        b"beef",
        sha256.digest(),
        sha256.hexdigest().encode(),
        key.secret[:8],
    ):
        assert word not in first
        assert word not in key.name.encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", ["short", "flipped", "empty", "foreign"])
def test_a_damaged_entry_is_none_and_goes(damage, tmp_path):
    cache, key = EmbeddingCache(tmp_path), key_of([PORTRAIT], SETTINGS)
    cache.put(key, STORED)
    path = cache.folder / key.name
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    path.write_bytes(
        {"short": whole[:-1], "flipped": bytes(flipped), "empty": b"", "foreign": b"x" * 999}[
            damage
        ]
    )
    assert cache.get(key) is None
    assert not path.exists()
    cache.put(key, STORED)
    assert cache.get(key) == STORED


def test_the_longest_unused_go_first(tmp_path):
    keys = [key_of([bytes([number])], SETTINGS) for number in range(4)]
    cache = EmbeddingCache(tmp_path)
    for number, key in enumerate(keys[:3]):
        cache.put(key, STORED)
        os.utime(cache.folder / key.name, (1000 + number, 1000 + number))
    assert cache.get(keys[0]) is not None  # now the last used
    cache.limit = 3 * cache.entries()[0].size
    cache.put(keys[3], STORED)
    assert {entry.name for entry in cache.entries()} == {keys[0].name, keys[2].name, keys[3].name}
    cache.limit = 1
    cache.put(keys[1], STORED)
    assert [entry.name for entry in cache.entries()] == [keys[1].name]  # the newest always stays


def test_what_a_killed_process_left_is_swept(tmp_path):
    cache = EmbeddingCache(tmp_path)
    cache.put(key_of([OTHER], SETTINGS), STORED)
    old, young = cache.folder / ".old.part", cache.folder / ".young.part"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    cache.put(key_of([PORTRAIT], SETTINGS), STORED)
    assert not old.exists()
    assert young.exists()  # another process may be at it
    assert len(cache.entries()) == 2


def test_many_at_once(tmp_path):
    size = len(PORTRAIT) * 40
    keys = [key_of([bytes([number])], SETTINGS) for number in range(6)]
    wrong: list[object] = []

    def work() -> None:
        cache = EmbeddingCache(tmp_path, limit=3 * size)
        for key in keys * 3:
            cache.put(key, STORED)
            if cache.get(key) not in (None, STORED):
                wrong.append(key)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not [path for path in (tmp_path / "embeddings").iterdir() if path.name.startswith(".")]


def test_a_folder_that_cannot_be_is_an_error(tmp_path):
    (tmp_path / "embeddings").write_text("a file")
    with pytest.raises(OutputError, match="cannot be made"):
        EmbeddingCache(tmp_path).put(key_of([PORTRAIT], SETTINGS), STORED)
    assert EmbeddingCache(tmp_path).entries() == []


def test_where_it_is(monkeypatch):
    for name in ("PULID_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    assert default_folder() == Path("/home/me/.cache/pulid-flux-toolkit")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert default_folder() == Path("/caches/pulid-flux-toolkit")
    monkeypatch.setenv("PULID_CACHE_DIR", "~/mine")
    assert default_folder() == Path("/home/me/mine")


def test_several_portraits_are_recalled_in_any_order(tmp_path):
    """`recall` puts the facts into the order of this command line, and judges them again."""
    from pulid_extract.extraction.job import Job
    from pulid_extract.extraction.result_cache import recall
    from pulid_extract.extraction.results import ExtractionResult, PortraitResult, report_of
    from pulid_extract.faces.choice import FaceChoice
    from pulid_extract.faces.quality import Quality, QualityWarning
    from pulid_extract.flags.extract import ExtractFlags
    from pulid_extract.pictures.sources import Source
    from pulid_extract.shared.errors import FaceError

    sources = tuple(Source(f"{name}.png", f"{name}.png", name.encode()) for name in "abc")
    warnings = (QualityWarning("yaw", "profile"),)
    quality = Quality(0.5, 90.0, 0.1, 45.0, 0.0, 0.0, None, None, None, 0.0, None, 1, warnings)
    portraits = [
        PortraitResult(
            source.sha256,
            "largest",
            (1, 2, 3, 4),
            None,
            0.9,
            1,
            quality,
            f"quality of {source.where}",
        )
        for source in sources
    ]
    data = encode_embedding(np.ones((32, 8), np.float32))
    cosines = np.array([[1.0, 0.8, 0.1], [0.8, 1.0, 0.1], [0.1, 0.1, 1.0]])
    made = ExtractionResult(data, tuple(portraits), cosines, (32, 2048), False, "cpu", "float32")
    job = Job(sources, FaceChoice(), None, (), ExtractFlags(mix_people=True))
    cache, key = EmbeddingCache(tmp_path), job.key({"eva_clip": ["00"]}, "cpu")
    cache.put(key, made.to_cache())
    turned = replace(job, sources=(sources[2], sources[0], sources[1]))
    assert turned.key({"eva_clip": ["00"]}, "cpu") == key
    said: list[str] = []
    recalled = recall(turned, cache, key, said.append)
    assert recalled.is_cached
    assert recalled.portraits == (portraits[2], portraits[0], portraits[1])
    assert said[:2] == ["c.png: quality of c.png", "c.png: warning: profile"]
    report = report_of(turned, recalled)
    assert report["outliers"] == ["c.png"]
    assert report["cosines"][0] == [1.0, 0.1, 0.1]
    # what opens and is no extraction is dropped: of another version, or garbage
    facts = made.to_cache().facts
    portrait = facts["portraits"][0]
    for data_, garbage in (
        (b"GGUF", facts),
        (data, {}),
        (data, facts | {"more": 1}),
        (data, facts | {"portraits": "abc"}),
        (data, facts | {"portraits": facts["portraits"][:2]}),
        (data, facts | {"cosines": [[1.0]]}),
        (data, facts | {"cosines": [["1"] * 3] * 3}),
        (data, facts | {"tokens": [[32]]}),
        (data, facts | {"portraits": [portrait | {"box": [1, 2, 3]}] * 3}),
        (data, facts | {"portraits": [portrait | {"line": 5}] * 3}),
        (data, facts | {"portraits": [portrait | {"quality": {"value": 1}}] * 3}),
    ):
        cache.put(key, CachedExtraction(data_, garbage))
        assert recall(turned, cache, key, said.append) is None
        assert cache.entries() == []
    cache.put(key, made.to_cache())
    for flags, message in (
        (ExtractFlags(), "two people"),
        (ExtractFlags(mix_people=True, strict=True), "--strict: 4 warnings"),
    ):
        with pytest.raises(FaceError, match=message):
            recall(replace(turned, flags=flags), cache, key, said.append)
