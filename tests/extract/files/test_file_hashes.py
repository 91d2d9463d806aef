"""Hashes of model files, remembered as long as the file is the same."""

from __future__ import annotations

import hashlib
import os
import stat

import pytest

from pulid_extract.files import file_hashes
from pulid_extract.files.file_hashes import FileHashes
from pulid_extract.shared.errors import InputError


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"weights")
    return path


def test_a_hash_is_remembered_until_the_file_changes(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(file_hashes, "YOUNG", -1.0)
    want = hashlib.sha256(b"weights").hexdigest()
    hashes = FileHashes(tmp_path / "cache")
    assert hashes.known(weights) is None
    assert hashes.of(weights) == want
    assert FileHashes(tmp_path / "cache").known(weights) == want
    assert stat.S_IMODE((tmp_path / "cache" / file_hashes.MEMORY).stat().st_mode) == 0o600
    seen = weights.stat()
    weights.write_bytes(b"changed")  # as long, and with the time set back: only ctime tells
    os.utime(weights, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    fresh = FileHashes(tmp_path / "cache")
    assert fresh.known(weights) is None
    assert fresh.of(weights) == hashlib.sha256(b"changed").hexdigest()


def test_a_file_that_just_changed_is_not_remembered(weights, tmp_path):
    hashes = FileHashes(tmp_path / "cache")
    assert hashes.of(weights) == hashlib.sha256(b"weights").hexdigest()
    assert FileHashes(tmp_path / "cache").known(weights) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"x": 1}', b"\xff" * 9, b"[" * 100_000])
def test_a_damaged_memory_is_none(content, weights, tmp_path):
    (tmp_path / file_hashes.MEMORY).write_bytes(content)
    assert FileHashes(tmp_path).known(weights) is None


def test_no_folder_no_memory(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(file_hashes, "YOUNG", -1.0)
    assert FileHashes(None).of(weights)
    assert list(tmp_path.iterdir()) == [weights]
    with pytest.raises(InputError, match="cannot be read"):
        FileHashes(None).of(tmp_path / "none")
