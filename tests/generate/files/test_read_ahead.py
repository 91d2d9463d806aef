"""Files that are asked for before they are loaded."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from pulid_generate.files import read_ahead as module
from pulid_generate.files.read_ahead import read_ahead


@pytest.fixture
def asked(monkeypatch):
    """(name, start, length) of all advice, with room for 3,000 bytes."""
    heard = []

    def advise(number, start, length, advice):
        assert advice == os.POSIX_FADV_WILLNEED
        heard.append((os.path.basename(os.readlink(f"/proc/self/fd/{number}")), start, length))

    monkeypatch.setattr(module, "WINDOW", 1000)
    memory = SimpleNamespace(available=6000)
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(os, "posix_fadvise", advise, raising=False)
    return heard


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="there is no such advice here")
def test_files_are_asked_for_in_order_as_far_as_there_is_room(asked, tmp_path):
    for name, size in (("a", 1500), ("b", 400), ("c", 1200), ("d", 10)):
        (tmp_path / name).write_bytes(bytes(size))
    paths = [tmp_path / name for name in ("a", "missing", "b", "c", "d")]
    thread = read_ahead(paths)
    thread.join(10)
    assert thread.daemon
    # c would take the last of the room, and what comes after it is not read before it
    assert asked == [("a", 0, 1000), ("a", 1000, 1000), ("b", 0, 1000)]


def test_where_there_is_no_advice_nothing_happens(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    assert read_ahead([tmp_path]) is None
