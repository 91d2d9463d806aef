"""One set of models in each form that people have it in. Tests copy what they change."""

from __future__ import annotations

import pytest
from support.models.flux_files import all_in_one, pipeline_folder
from support.models.loaded_models import loaded

from pulid_generate.files.model_set import ModelFiles


@pytest.fixture(scope="session")
def whole(micro, tmp_path_factory):
    return all_in_one(micro, tmp_path_factory.mktemp("aio") / "flux1-schnell-all.safetensors")


@pytest.fixture(scope="session")
def folder(micro, tmp_path_factory):
    return pipeline_folder(micro, tmp_path_factory.mktemp("pipelines") / "FLUX.1-micro")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="session")
def separate(micro):
    """The models of four separate files."""
    tokenizer = micro / "tokenizer.json"
    return loaded(
        ModelFiles.find(
            models_dir=micro,
            flux=micro / "flux1-schnell.safetensors",
            t5_tokenizer=tokenizer,
            with_pulid=False,
        )
    )
