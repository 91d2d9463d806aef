"""A worker of a cluster compares itself with the command before it draws."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pulid_extract.shared.model_files import read_header
from pulid_generate.batch.ray_worker import check_facts, facts_of
from pulid_generate.errors import WeightsError
from pulid_generate.files.roles import CLIP_L, VAE
from pulid_generate.version import __version__


def pipeline_of(micro, **names):
    """Something that has files, as a Pipeline has."""
    found = []
    for role, name in names.items():
        path = micro / name
        here = SimpleNamespace(path=path, header=read_header(path))
        found.append(({"vae": VAE, "clip_l": CLIP_L}[role], here))
    return SimpleNamespace(files=SimpleNamespace(by_role=lambda: found))


def test_the_same_versions_and_files_pass(micro, tmp_path):
    here = facts_of(pipeline_of(micro, vae="ae.safetensors", clip_l="clip_l.safetensors"))
    assert here["pulid-flux-toolkit"] == __version__
    assert here["torch"] == torch.__version__
    assert len(here) == 4
    check_facts(here, here)
    # a copy on another machine has other times and another place
    for name in ("ae.safetensors", "clip_l.safetensors"):
        (tmp_path / name).write_bytes((micro / name).read_bytes())
    copied = facts_of(pipeline_of(tmp_path, vae="ae.safetensors", clip_l="clip_l.safetensors"))
    check_facts(copied, here)


def test_another_file_or_version_is_refused_by_name(micro):
    here = facts_of(pipeline_of(micro, vae="ae.safetensors"))
    other = facts_of(pipeline_of(micro, vae="clip_l.safetensors"))
    [role] = [name for name in here if name.startswith("the ")]
    with pytest.raises(WeightsError, match=f"^{role} is not the one that the command was given"):
        check_facts(other, here)
    with pytest.raises(WeightsError, match=r"torch is 1\.0 there and .* here; install the same"):
        check_facts(here | {"torch": "1.0"}, here)
    # a worker that found no such file
    with pytest.raises(WeightsError, match="is not the one that the command was given"):
        check_facts({"pulid-flux-toolkit": __version__, "torch": torch.__version__}, here)
