"""What the tests of batches share: the models' flags, a folder of people, a cache of their own."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from seeded.checkpoints import write_embedding
from support.batch_rows import ROWS, manifest
from support.models.micro_flags import model_flags, pulid_flags


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PULID_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("PULID_NO_CACHE", raising=False)


@pytest.fixture
def models(micro):
    return *model_flags(micro), *pulid_flags(micro), "--steps", 2


@pytest.fixture
def people(person, tmp_path):
    """A folder with two identities."""
    folder = tmp_path / "people"
    folder.mkdir()
    (folder / "ada.pulidembd").write_bytes(person.read_bytes())
    write_embedding(folder / "bob.pulidembd", seed=6)
    return folder


@pytest.fixture
def rows(people, tmp_path):
    """The manifest of ROWS, with the files that it names."""
    Image.fromarray(
        np.arange(48 * 64 * 3, dtype=np.uint32).reshape(48, 64, 3).astype(np.uint8)
    ).save(tmp_path / "start.png")
    return manifest(tmp_path / "rows.jsonl", *ROWS)
