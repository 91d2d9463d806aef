"""antelopev2's pack through insightface: which files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.models.portrait_models import (
    models_folder,
    write_antelopev2,
)
from support.pictures.coloured_faces import RED, picture

from pulid_extract.faces import antelopev2 as faces
from pulid_extract.shared.errors import WeightsError


def test_only_the_two_networks_are_opened():
    antelope = faces.Antelope(models_folder() / "antelopev2")
    bgr = np.ascontiguousarray(picture((5, 5, RED))[..., ::-1])
    (face,) = antelope.detect(bgr)
    vector = antelope.embed(bgr, face)
    assert vector.shape == (512,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) > 2  # not normalised
    assert {task: Path(model.model_file).name for task, model in antelope._models.items()} == {
        "detection": "scrfd_10g_bnkps.onnx",
        "recognition": "glintr100.onnx",
    }
    assert antelope._models["detection"].input_sizes == [(640, 640)]
    assert not np.allclose(antelope.embed_crop(bgr[:512, :512]), vector)


def test_other_file_names_go_through_insightfaces_router(tmp_path):
    folder = write_antelopev2(tmp_path / "pack")
    (folder / "scrfd_10g_bnkps.onnx").rename(folder / "z_detector.onnx")
    (folder / "glintr100.onnx").rename(folder / "recogniser.onnx")
    antelope = faces.Antelope(folder)
    assert len(antelope.detect(picture((5, 5, RED))[..., ::-1].copy())) == 1
    assert antelope.embed_crop(np.zeros((512, 512, 3), np.uint8)).shape == (512,)


def test_a_pack_without_a_network_is_a_clear_error(tmp_path):
    folder = write_antelopev2(tmp_path / "pack")
    (folder / "scrfd_10g_bnkps.onnx").unlink()
    with pytest.raises(WeightsError, match=r"no detection network .*expected scrfd_10g_bnkps.onnx"):
        faces.Antelope(folder).detect(picture())
    (folder / "glintr100.onnx").write_bytes(b"\x08garbage")
    with pytest.raises(WeightsError, match=r"glintr100\.onnx: insightface cannot open it"):
        faces.Antelope(folder).embed_crop(picture())


def test_a_recogniser_of_another_width_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="gives 256 numbers"):
        faces.Antelope(write_antelopev2(tmp_path, width=256)).embed_crop(picture())


def test_overlap():
    boxes = [(0, 0, 10, 10), (50, 50, 80, 80), (60, 60, 90, 90)]
    assert faces.overlap(boxes[1], boxes[2]) == pytest.approx(400 / 1400)
    assert faces.overlap(boxes[0], boxes[1]) == 0
    assert faces.overlap((5, 5, 5, 5), (5, 5, 5, 5)) == 0
