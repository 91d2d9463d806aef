"""All-in-one checkpoints: which parts they hold, and that each is that of its own file."""

from __future__ import annotations

import shutil

import pytest
import torch
from gguf import GGMLQuantizationType as Q
from safetensors.torch import load_file
from support.models.flux_files import ALL_IN_ONE, all_in_one, write_gguf
from support.models.loaded_models import assert_same, loaded

from pulid_extract.shared.model_files import kind_of, kinds_of, read_header
from pulid_extract.shared.model_files.kinds import PREFIXES
from pulid_generate.errors import WeightsError
from pulid_generate.files.model_set import ModelFiles
from pulid_generate.packed.fp8 import Fp8Linear


def test_an_all_in_one_holds_four_models(whole):
    header = read_header(whole)
    assert {kind.name for kind in kinds_of(header).values()} == {
        "Flux transformer",
        "Flux autoencoder",
        "CLIP-L text encoder",
        "T5 encoder",
    }
    assert kind_of(header).name.startswith("all-in-one checkpoint (")
    assert not kind_of(header).refusal


def test_every_part_of_an_all_in_one_is_that_of_its_own_file(whole, micro, separate):
    files = ModelFiles.find(model=whole, t5_tokenizer=micro / "tokenizer.json", with_pulid=False)
    assert {found.rule for _, found in files.by_role()} == {"all-in-one"}
    assert_same(loaded(files), separate)


def test_an_explicit_part_wins_over_the_all_in_one(whole, micro):
    other = micro / "ae.safetensors"
    files = ModelFiles.find(
        model=whole, vae=other, t5_tokenizer=micro / "tokenizer.json", with_pulid=False
    )
    assert (files.vae.path, files.vae.rule) == (other, "flag")
    assert files.clip_l.rule == "all-in-one"
    flux = micro / "flux1-schnell.safetensors"
    assert (
        ModelFiles.find(
            model=whole, flux=flux, t5_tokenizer=micro / "tokenizer.json", with_pulid=False
        ).flux.path
        == flux
    )


@pytest.mark.parametrize(
    ("missing", "role"),
    [("ae", "autoencoder"), ("clip_l", "CLIP-L text encoder"), ("t5xxl_fp16", "T5 text encoder")],
)
def test_a_part_that_is_missing_is_named_or_comes_from_elsewhere(micro, tmp_path, missing, role):
    part = all_in_one(micro, tmp_path / "part.safetensors", without=missing)
    with pytest.raises(
        WeightsError, match=rf"part.safetensors: holds no {role} \(only Flux transformer, .*give --"
    ):
        ModelFiles.find(model=part, t5_tokenizer=micro / "tokenizer.json", with_pulid=False)
    models = tmp_path / "models"
    models.mkdir()
    shutil.copy(micro / f"{missing}.safetensors", models)
    files = ModelFiles.find(
        model=part, models_dir=models, t5_tokenizer=micro / "tokenizer.json", with_pulid=False
    )
    rules = {found.rule for _, found in files.by_role()}
    assert rules == {"all-in-one", "models folder"}


def test_a_model_without_a_transformer_is_refused(micro, tmp_path):
    part = all_in_one(micro, tmp_path / "part.safetensors", without="flux1-schnell")
    with pytest.raises(WeightsError, match="--model wants a Flux transformer"):
        ModelFiles.find(model=part, t5_tokenizer=micro / "tokenizer.json", with_pulid=False)
    files = ModelFiles.find(
        model=part,
        flux=micro / "flux1-schnell.safetensors",
        t5_tokenizer=micro / "tokenizer.json",
        with_pulid=False,
    )
    assert files.vae.path == part


def test_an_all_in_one_is_a_candidate_for_every_part_it_holds(whole, micro, tmp_path):
    shutil.copy(whole, tmp_path / "all.safetensors")
    files = ModelFiles.find(
        models_dir=tmp_path, t5_tokenizer=micro / "tokenizer.json", with_pulid=False
    )
    assert {found.path.name for _, found in files.by_role()} == {"all.safetensors"}
    shutil.copy(micro / "ae.safetensors", tmp_path)
    with pytest.raises(
        WeightsError,
        match=r"2 files can be the autoencoder: .*ae.safetensors.*choose one with --vae",
    ):
        ModelFiles.find(
            models_dir=tmp_path, t5_tokenizer=micro / "tokenizer.json", with_pulid=False
        )


def test_an_fp8_all_in_one_stays_fp8(micro, tmp_path):
    """Comfy-Org's: transformer and T5 in e4m3, every tensor of them; CLIP in 16 bits, the
    autoencoder in 32.
    """

    def change(name, tensor):
        return (
            tensor.to(torch.float8_e4m3fn)
            if name.startswith(("model.diffusion_model.", "text_encoders.t5xxl"))
            else tensor
        )

    path = all_in_one(micro, tmp_path / "fp8.safetensors", change=change)
    models = loaded(
        ModelFiles.find(model=path, t5_tokenizer=micro / "tokenizer.json", with_pulid=False)
    )
    for name, kept in (("flux", True), ("t5xxl", True), ("clip_l", False), ("vae", False)):
        assert any(isinstance(module, Fp8Linear) for module in models[name].modules()) == kept, name


def test_an_all_in_one_gguf_of_sd_cli(micro, tmp_path, separate):
    """sd-cli writes no metadata, one-dimensional tensors in BF16, and "first_stage_model." for the
    autoencoder.
    """
    numbers = {}
    for name, prefix in ALL_IN_ONE.items():
        for key, value in load_file(micro / f"{name}.safetensors").items():
            if key != "encoder.embed_tokens.weight":
                own = {"vae.": "first_stage_model."}.get(prefix, prefix) + key
                numbers[own] = (value.float().numpy(), Q.BF16 if value.ndim == 1 else Q.F32)
    files = ModelFiles.find(
        model=write_gguf(tmp_path / "all.gguf", numbers),
        t5_tokenizer=micro / "tokenizer.json",
        with_pulid=False,
    )
    models = loaded(files)
    for name, model in models.items():
        theirs = separate[name].state_dict()
        for key, value in model.state_dict().items():
            assert torch.equal(
                value, theirs[key].bfloat16().float() if value.ndim == 1 else theirs[key]
            ), key


def test_every_prefix_is_told_apart():
    assert len(set(PREFIXES)) == len(PREFIXES)
    assert PREFIXES[0] == ""
