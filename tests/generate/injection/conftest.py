"""What the tests of compiled blocks share."""

from __future__ import annotations

import os

import pytest
import torch
from support.models import seeded_flux


@pytest.fixture(scope="module")
def flux():
    return seeded_flux.flux()


@pytest.fixture(scope="module")
def adapter():
    return seeded_flux.adapter()


@pytest.fixture(scope="module")
def people(adapter):
    """Three identities, bound."""
    return [adapter.bind(seeded_flux.tokens(name), torch.float32, "cpu") for name in "abc"]


@pytest.fixture
def generated_code(tmp_path_factory, monkeypatch):
    """torch's compiler keeps its code in a folder of this run, in which every worker of it finds
    what the first one made: the compiled headers, and which instructions the processor has.
    """
    from pulid_generate.injection.compiling import FOLDER_VARIABLE

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder / "generated-code"))
