"""Which of a models folder's files are meant: those that go with the chosen Flux, by their
tensors.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from seeded import public_layouts
from support.models.hollow_files import hollow, stored

from pulid_generate.errors import WeightsError
from pulid_generate.files.model import Model
from pulid_generate.files.model_set import ModelFiles
from pulid_generate.models.clip import ClipText
from pulid_generate.models.t5 import T5Text

BIAS = "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"
FILES = ("flux1-schnell.safetensors", "clip_l.safetensors", "t5xxl_fp16.safetensors")


@pytest.fixture
def models(micro, tmp_path) -> Path:
    """The micro models, linked, for others to be put beside them."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name in (*FILES, "ae.safetensors", "tokenizer.json"):
        (folder / name).symlink_to(micro / name)
    return folder


def found(models: Path) -> ModelFiles:
    return ModelFiles.find(models_dir=models, with_pulid=False)


def whole_t5(models: Path) -> dict[str, torch.Tensor]:
    state = load_file(models / "t5xxl_fp16.safetensors")
    for name, tensor in dict(state).items():
        if name.startswith("encoder.block."):
            state[name.replace("encoder.", "decoder.", 1)] = tensor.clone()
    return state | {"lm_head.weight": state["shared.weight"].clone()}


def whole_clip(models: Path) -> dict[str, torch.Tensor]:
    state = load_file(models / "clip_l.safetensors")
    for name in ("vision_model.embeddings.class_embedding", "visual_projection.weight"):
        state[name] = torch.ones(4, 4)
    return state | {"logit_scale": torch.ones(())}


def test_what_other_models_read_is_no_candidate(models):
    """CLIP-G and T5s of another width, UMT5, mT5, Flux Fill: beside the right files, and far larger
    in the world than here.
    """
    hollow(models / "clip_g.safetensors", stored(public_layouts.clip_l(1280, 1, 99), "F16"))
    hollow(models / "clip_128.safetensors", stored(public_layouts.clip_l(128, 1, 99), "F16"))
    hollow(models / "t5_base.safetensors", stored(public_layouts.t5(192), "F16"))
    umt5 = load_file(models / "t5xxl_fp16.safetensors")
    save_file(umt5 | {BIAS.format(1): umt5[BIAS.format(0)].clone()}, models / "umt5.safetensors")
    hollow(
        models / "mt5.safetensors",
        stored(public_layouts.t5(vocabulary=250_112), "F16"),
    )
    fill = stored(public_layouts.flux(256, 1, 1, latent=384), "BF16")
    hollow(models / "flux1-fill-dev.safetensors", fill)
    files = found(models)
    for model, name in zip((Model.FLUX, Model.CLIP, Model.T5), FILES, strict=True):
        assert files.of(model).path == models / name


def test_without_the_right_file_the_others_are_named(models):
    (models / "clip_l.safetensors").unlink()
    hollow(models / "clip_g.safetensors", stored(public_layouts.clip_l(1280, 1, 99), "F16"))
    hollow(models / "other.safetensors", stored(public_layouts.clip_l(128, 1, 99), "F16"))
    with pytest.raises(WeightsError) as caught:
        found(models)
    flux = models / FILES[0]
    for part in (
        f"{models / 'clip_g.safetensors'} is a CLIP-G text encoder",
        f"{models / 'other.safetensors'} gives states of width 128, {flux} takes 64",
    ):
        assert part in str(caught.value)


def test_an_encoder_by_itself_is_meant_and_a_whole_model_does_as_well(models):
    save_file(whole_t5(models), models / "a_t5.safetensors")
    save_file(whole_clip(models), models / "a_clip.safetensors")
    files = found(models)
    assert files.t5xxl.path.name == "t5xxl_fp16.safetensors"
    assert files.clip_l.path.name == "clip_l.safetensors"
    alone = {
        "t5": T5Text.load(files.t5xxl.header, torch.float32).encode(torch.tensor([[5, 1]])),
        "clip": ClipText.load(files.clip_l.header, torch.float32).encode([5] * 77),
    }
    for name in FILES[1:]:
        (models / name).unlink()
    files = found(models)
    whole = {
        "t5": T5Text.load(files.t5xxl.header, torch.float32).encode(torch.tensor([[5, 1]])),
        "clip": ClipText.load(files.clip_l.header, torch.float32).encode([5] * 77),
    }
    for name, states in alone.items():
        assert torch.equal(whole[name], states), name


def test_two_that_fit_are_still_a_question(models):
    shutil.copy(models / "clip_l.safetensors", models / "mine.safetensors")
    with pytest.raises(WeightsError, match="2 files can be the CLIP-L text encoder"):
        found(models)
