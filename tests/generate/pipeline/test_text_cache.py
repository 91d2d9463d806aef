"""The cache of encoded prompts: the last used are kept, and no damage."""

from __future__ import annotations

import os
from types import SimpleNamespace

from pulid_extract.shared.model_files import read_header
from pulid_generate.pipeline.text_cache import TextCache, file_identity, key_of


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
    # it is said once, and the run goes on
    said: list[str] = []
    unwritable = TextCache(tmp_path / "file", warn=said.append)
    for key in ("x", "y"):
        unwritable.put(key, key.encode())
    assert [unwritable.get(key) for key in ("x", "y", "z")] == [b"x", b"y", None]
    [line] = said
    assert line.startswith(f"the cache of encoded prompts is not used: {tmp_path / 'file'}")
    assert "PULID_CACHE_DIR" in line
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


def test_an_entry_that_opens_and_is_no_states_is_made_anew(tmp_path, monkeypatch):
    import torch
    from safetensors.torch import save

    from pulid_generate.pipeline import texts

    placement = SimpleNamespace(device=torch.device("cpu"))
    found = SimpleNamespace(path="a.safetensors")
    files = SimpleNamespace(t5xxl=found, clip_l=found)
    store = texts.TextStore(TextCache(tmp_path), files, placement)
    monkeypatch.setattr(store, "_key", lambda prompt: prompt)
    good = texts.TextStates(torch.ones(1, 2, 4), torch.ones(1, 3))
    store.put("a cat", good)
    assert torch.equal(store.get("a cat").t5, good.t5)
    nan = torch.full((1, 2, 4), torch.nan)
    for garbage in (
        b"",
        b"\xff" * 100,
        (2**60).to_bytes(8, "little") + b"{}",
        save({"t5": torch.ones(1, 2, 4)}),
        save({"t5": torch.ones(2), "pooled": torch.ones(1, 3)}),
        save({"t5": nan, "pooled": torch.ones(1, 3)}),
    ):
        # sealed as it should be
        store.cache.put("a cat", garbage)
        assert store.get("a cat") is None
        assert store.lacks(["a cat"]) == ["a cat"]
