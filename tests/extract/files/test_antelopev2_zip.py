"""insightface's archive of antelopev2, unpacked: where its files land, and what is refused."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from support.models.portrait_models import antelopev2_zip

from pulid_extract.files.antelopev2_zip import unpack_antelopev2
from pulid_extract.files.kits import KITS
from pulid_extract.shared.errors import OutputError, WeightsError
from pulid_extract.shared.model_files import ANTELOPEV2_NETWORKS, find, pulling


@pytest.mark.parametrize("folder", ["antelopev2/", "", "antelopev2/antelopev2/", "../../"])
def test_insightfaces_archive_is_unpacked_flat(folder, tmp_path):
    models = tmp_path / "models"
    unpack_antelopev2(antelopev2_zip(tmp_path / "antelopev2.zip", folder), models)
    assert sorted(path.name for path in models.rglob("*") if path.is_file()) == [
        "glintr100.onnx",
        "scrfd_10g_bnkps.onnx",
    ]
    assert find(KITS["antelopev2"][0].role, None, models).path == models / "antelopev2"


def test_another_archive_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"holds no glintr100\.onnx"):
        unpack_antelopev2(
            antelopev2_zip(tmp_path / "a.zip", "", without="glintr100.onnx"), tmp_path / "models"
        )
    (tmp_path / "b.zip").write_bytes(b"PK\x03\x04 cut off")
    (tmp_path / "c.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-40])
    for name in ("b.zip", "c.zip", "none.zip"):
        with pytest.raises(WeightsError, match="cannot be unpacked"):
            unpack_antelopev2(tmp_path / name, tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_damaged_archive_leaves_nothing_whatever_its_compression(method, tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as opened:
        for name in ANTELOPEV2_NETWORKS:
            opened.writestr(name, np.random.default_rng(0).bytes(50_000))
    data = bytearray(path.read_bytes())
    for start in (60, 300, 40_000):
        damaged = bytearray(data)
        damaged[start : start + 200] = b"\xff" * 200
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match="cannot be unpacked"):
            unpack_antelopev2(path, tmp_path / "models")
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file != path]
    path.write_bytes(data)
    assert len(unpack_antelopev2(path, tmp_path / "models")) == 2  # the same archive, whole


@pytest.mark.parametrize(
    ("body", "message"), [(b"", "is empty"), (b" <html>log in", "is an HTML page")]
)
def test_an_archive_of_pages_is_refused(body, message, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        for name in ANTELOPEV2_NETWORKS:
            opened.writestr(name, body)
    with pytest.raises(WeightsError, match=message):
        unpack_antelopev2(tmp_path / "a.zip", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_an_archive_that_would_fill_the_disk_is_refused_before_it_is_unpacked(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(pulling, "free_bytes", lambda folder: pulling.RESERVE + 1000)
    with pytest.raises(OutputError, match="are to be unpacked"):
        unpack_antelopev2(antelopev2_zip(tmp_path / "a.zip", ""), tmp_path / "models")
    assert not [path for path in (tmp_path / "models").rglob("*") if path.is_file()]
