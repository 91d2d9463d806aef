"""A small Flux, and a LoRA that is on every kind of its layers."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.models.lora_files import BFL_SPELLINGS, bfl_lora, flux, write

from pulid_generate.lora.hooks import linear_shapes


@pytest.fixture(scope="module")
def model():
    return flux()


@pytest.fixture(scope="module")
def kohya(model, tmp_path_factory) -> Path:
    tensors, _ = bfl_lora(linear_shapes(model), *BFL_SPELLINGS["kohya"], alpha=1.5)
    return write(tmp_path_factory.mktemp("lora") / "kohya.safetensors", tensors)
