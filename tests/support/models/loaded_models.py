"""The four models of a set of files, and that they are those of another."""

from __future__ import annotations

import torch
from torch import nn

from pulid_generate.files.model_set import ModelFiles
from pulid_generate.models.autoencoder import load_vae
from pulid_generate.models.clip import ClipText
from pulid_generate.models.flux import load_flux
from pulid_generate.models.t5 import T5Text


def loaded(files: ModelFiles) -> dict[str, nn.Module]:
    """The four models of a set."""
    return {
        "flux": load_flux(files.flux.header, torch.float32),
        "vae": load_vae(files.vae.header, torch.float32),
        "clip_l": ClipText.load(files.clip_l.header, torch.float32).model,
        "t5xxl": T5Text.load(files.t5xxl.header, torch.float32).model,
    }


def assert_same(models: dict[str, nn.Module], others: dict[str, nn.Module]) -> None:
    for name, model in models.items():
        ours, theirs = model.state_dict(), others[name].state_dict()
        assert set(ours) == set(theirs), name
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
