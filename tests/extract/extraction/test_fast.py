"""`--fast`: what it changes of the tokens, that the file and the cache know of it, who says that it
changes nothing; and which device's results the cache gives.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.distances import relative
from support.models.portrait_models import models
from support.pictures.coloured_faces import ALONE, save
from support.programs.commands import call

from pulid_extract.batch.ray_worker import WorkerSetup, open_worker
from pulid_extract.commands.doctor import _network_checks
from pulid_extract.extraction.job import Job
from pulid_extract.extraction.result_cache import ResultCache
from pulid_extract.extraction.results import ExtractionResult, PortraitResult
from pulid_extract.faces.choice import FaceChoice
from pulid_extract.faces.quality import Quality
from pulid_extract.files import file_hashes
from pulid_extract.flags.batch import BatchFlags
from pulid_extract.flags.extract import ExtractFlags
from pulid_extract.networks import devices
from pulid_extract.pictures.sources import Source
from pulid_extract.shared.cluster.actor import Place
from pulid_extract.shared.embedding_file import encode_embedding, read_embedding


@pytest.fixture
def caching(tmp_path, monkeypatch):
    """A cache of this test's own, switched on."""
    monkeypatch.delenv("PULID_NO_CACHE")
    monkeypatch.setenv("PULID_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(file_hashes, "YOUNG", -1.0)


def test_a_fast_file_says_so_and_is_near_the_exact_one(caching, tmp_path, capfd, monkeypatch):
    portrait = save(tmp_path / "me.png", *ALONE)
    multiplies = [True]
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda: multiplies[0])

    def extracted(*more: str) -> tuple[dict, np.ndarray, dict]:
        out = tmp_path / "me.pulidembd"
        arguments = ["--portrait", str(portrait), "-o", str(out), "--json", "--dtype", "f32"]
        code, told, said = call(capfd, monkeypatch, *arguments, *models(), *more)
        assert code == 0, said
        embedding = read_embedding(out)
        return json.loads(told) | {"said": said}, embedding.tokens, embedding.provenance

    exact, tokens, provenance = extracted()
    assert exact["arithmetic"] == "float32"
    assert "arithmetic" not in provenance
    fast, fast_tokens, fast_provenance = extracted("--fast")
    # not the exact one out of the cache
    assert not fast["cached"]
    assert fast["arithmetic"] == "bfloat16"
    assert fast_provenance == provenance | {"arithmetic": "bfloat16"}
    assert 0 < relative(fast_tokens, tokens) < 0.03
    cosine = fast_tokens.ravel() @ tokens.ravel()
    cosine /= np.linalg.norm(fast_tokens) * np.linalg.norm(tokens)
    assert cosine > 0.999
    again, tokens_again, _ = extracted("--fast")
    assert again["cached"]
    assert again["arithmetic"] == "bfloat16"
    assert np.array_equal(tokens_again, fast_tokens)
    # where it changes nothing that is said, and the file is the exact one
    multiplies[0] = False
    slow, slow_tokens, slow_provenance = extracted("--fast", "--no-cache")
    assert "--fast changes nothing: cpu does not multiply bfloat16" in slow["said"]
    assert np.array_equal(slow_tokens, tokens)
    assert slow_provenance == provenance


@pytest.mark.parametrize("multiplies", [True, False])
def test_where_it_changes_nothing_a_worker_and_doctor_say_so(multiplies, monkeypatch):
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda: multiplies)
    [_, told] = _network_checks("cpu", True)
    assert told.status == ("ok" if multiplies else "note")
    assert ("bfloat16" if multiplies else "changes nothing") in told.text
    assert len(_network_checks("cpu", False)) == 1
    flags = BatchFlags(rows="rows.csv", out_dir="out", device="cpu", fast=True)
    threads = torch.get_num_threads()
    place = Place("node", "host", 0, threads, False, 1)
    notes = open_worker(WorkerSetup(flags, "", frozenset()), place).notes
    assert len(notes) == (not multiplies)
    assert all(note.startswith("host: --fast changes nothing") for note in notes)


@pytest.mark.parametrize(
    ("made_on", "wanted", "is_found"),
    [
        ("cuda", "cuda", True),
        ("cuda", "auto", True),
        ("cpu", "auto", True),
        ("cuda", "cpu", False),
        ("cpu", "cuda", False),
        # never chosen by itself
        ("mps", "auto", False),
    ],
)
def test_who_names_a_device_gets_what_it_made(caching, made_on, wanted, is_found):
    quality = Quality(0.5, 90.0, 0.1, 45.0, 0.0, 0.0, None, None, None, 0.0, None, 1, ())
    source = Source("a.png", "a.png", b"a portrait")
    portrait = PortraitResult(source.sha256, "largest", (1, 2, 3, 4), None, 0.9, 1, quality, "fine")
    data = encode_embedding(np.ones((32, 8), np.float32))
    made = ExtractionResult(data, (portrait,), None, (32, 8), False, made_on, "float32")
    job = Job((source,), FaceChoice(), None, (), ExtractFlags())
    ResultCache({}, made_on, False).put(job, (), made)
    found = ResultCache({}, wanted, False).get(job, (), lambda line: None)
    assert found == (replace(made, is_cached=True) if is_found else None)
