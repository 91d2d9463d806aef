"""diffusers folders, their components, and repository ids: whole, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from support.distances import relative
from support.models.flux_files import cached_repository
from support.models.golden_flux import inputs, velocity
from support.models.loaded_models import assert_same, loaded

from pulid_extract.shared.model_files import candidates_in, kind_of, read_header
from pulid_generate.errors import WeightsError
from pulid_generate.files.model_set import ModelFiles
from pulid_generate.files.roles import CLIP_L, FLUX, T5XXL, VAE
from pulid_generate.models.autoencoder import load_vae
from pulid_generate.models.flux import flux_shape, load_flux

ROLES = {"flux": FLUX, "vae": VAE, "clip_l": CLIP_L, "t5xxl": T5XXL}


def test_a_pipeline_folder_is_an_all_in_one(folder, separate):
    files = ModelFiles.find(model=folder, with_pulid=False)
    assert files.t5_tokenizer == folder / "tokenizer_2" / "tokenizer.json"
    assert files.flux.name == "FLUX.1-micro"
    models = loaded(files)
    assert_same({name: models[name] for name in ("flux", "vae", "clip_l", "t5xxl")}, separate)


@pytest.mark.parametrize("name", ROLES)
def test_the_pipeline_or_its_component_fills_each_role(folder, micro, separate, name):
    component = {
        "flux": "transformer",
        "vae": "vae",
        "clip_l": "text_encoder",
        "t5xxl": "text_encoder_2",
    }[name]
    for given in (folder, folder / component):
        flags = {
            "flux": micro / "flux1-schnell.safetensors",
            "t5_tokenizer": micro / "tokenizer.json",
            name: given,
        }
        files = ModelFiles.find(models_dir=micro, with_pulid=False, **flags)
        assert getattr(files, name).path == given
        assert_same({name: loaded(files)[name]}, separate)


def test_velocities_are_exactly_those_of_the_bfl_layout(folder, micro, separate):
    """The real class reads the folder as well, so the names are diffusers' own."""
    from diffusers import FluxTransformer2DModel

    theirs = FluxTransformer2DModel.from_pretrained(
        folder / "transformer", torch_dtype=torch.float32
    ).eval()
    ours = load_flux(read_header(folder / "transformer"), torch.float32)
    x = inputs()
    text = torch.nn.functional.pad(x["txt"], (0, 64 - 96))
    drawn = [
        velocity(model, x["latent"], 0.7, text, x["vec"])
        for model in (ours, theirs, separate["flux"])
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert relative(drawn[0], drawn[2]) < 1e-6
    assert relative(velocity(ours, x["latent"], 0.3, text, x["vec"]), drawn[0]) > 0.01


def test_one_file_with_diffusers_names(separate, tmp_path):
    save_file(
        {name: value.contiguous() for name, value in separate["flux"].state_dict().items()},
        tmp_path / "one.safetensors",
    )
    header = read_header(tmp_path / "one.safetensors")
    assert kind_of(header).name == "diffusers Flux transformer"
    assert_same({"flux": load_flux(header, torch.float32)}, separate)
    save_file(
        {name: value.contiguous() for name, value in separate["vae"].state_dict().items()},
        tmp_path / "v.safetensors",
    )
    assert_same({"vae": load_vae(read_header(tmp_path / "v.safetensors"), torch.float32)}, separate)


def test_a_cached_repository_is_found_by_its_id(folder, tmp_path, separate, micro):
    cached_repository(folder, tmp_path / "hub", "someone/FLUX.1-micro")
    files = ModelFiles.find(model="someone/FLUX.1-micro", with_pulid=False)
    assert files.flux.name == "FLUX.1-micro"  # not the snapshot's hash
    assert_same({"flux": loaded(files)["flux"]}, separate)
    part = ModelFiles.find(
        models_dir=micro,
        flux=micro / "flux1-schnell.safetensors",
        vae="someone/FLUX.1-micro/vae",
        t5_tokenizer=micro / "tokenizer.json",
        with_pulid=False,
    )
    assert part.vae.path.name == "vae"


def test_a_cached_repository_of_single_files(micro, tmp_path):
    """city96's repositories hold GGUF files only, and BFL's may be cached as the one file that was
    asked for.
    """
    content = tmp_path / "content"
    content.mkdir()
    shutil.copy(micro / "flux1-schnell.safetensors", content)
    cached_repository(content, tmp_path / "hub", "city96/one")
    files = ModelFiles.find(
        models_dir=micro, flux="city96/one", t5_tokenizer=micro / "tokenizer.json", with_pulid=False
    )
    assert files.flux.path.name == "flux1-schnell.safetensors"
    shutil.copy(micro / "flux1-schnell.safetensors", content / "second.safetensors")
    with pytest.raises(
        WeightsError,
        match=r"2 files in it can be the Flux transformer: .*give --diffusion-model one of them",
    ):
        ModelFiles.find(
            models_dir=micro,
            flux="city96/one",
            t5_tokenizer=micro / "tokenizer.json",
            with_pulid=False,
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "nobody/nothing",
            r"no repository of that name in the Hugging Face cache; if it is one, run "
            "'hf download nobody/nothing'",
        ),
        ("models/flux.safetensors", "no such file"),
        ("./a/b", "no such file"),
        (
            "someone/FLUX.1-micro/unet",
            "the cached repository has no unet; run 'hf download someone/FLUX.1-micro unet'",
        ),
    ],
)
def test_what_is_nowhere_says_how_to_get_it(folder, tmp_path, monkeypatch, given, message):
    import socket

    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: pytest.fail("a network call"))
    cached_repository(folder, tmp_path / "hub", "someone/FLUX.1-micro")
    with pytest.raises(WeightsError, match=message):
        ModelFiles.find(model=given, with_pulid=False)


def test_a_models_folder_with_a_pipeline_in_it(folder, tmp_path, micro):
    models = tmp_path / "models"
    models.mkdir()
    shutil.copytree(folder, models / "FLUX.1-micro")
    for name, role in ROLES.items():
        found = candidates_in(models, role).fitting
        # never a shard on its own
        assert [header.path for header in found] == [models / "FLUX.1-micro"], name
    shutil.copytree(folder / "transformer", models / "alone")
    assert [header.path.name for header in candidates_in(models, FLUX).fitting] == [
        "FLUX.1-micro",
        "alone",
    ]
    with pytest.raises(WeightsError, match="2 files can be the Flux transformer"):
        ModelFiles.find(models_dir=models, with_pulid=False)


def changed(folder, tmp_path, change):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    change(copy)
    return copy


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: edit(f / "transformer/config.json", in_channels=384), "is Flux Fill"),
        (lambda f: edit(f / "transformer/config.json", in_channels=128), "is Flux Canny or Depth"),
        (
            lambda f: edit(f / "transformer/config.json", guidance_embeds=True),
            "guidance_embeds True, the tensors False",
        ),
        (
            lambda f: edit(f / "transformer/config.json", num_layers=8),
            "num_layers 8, the tensors 4",
        ),
        (lambda f: (f / "transformer/config.json").write_text("{"), "config.json: damaged JSON"),
        (
            lambda f: next((f / "transformer").glob("*-00002-*")).unlink(),
            "parts are missing .*the download is incomplete",
        ),
        (
            lambda f: edit(
                next((f / "transformer").glob("*.index.json")), weight_map={"a": "../x"}
            ),
            "damaged index",
        ),
        (
            lambda f: edit(f / "vae/config.json", scaling_factor=1.5305),
            "the autoencoder of another model .*scaled by 1.5305",
        ),
        (lambda f: shutil.rmtree(f / "transformer"), "--model wants a Flux transformer"),
    ],
    ids=[
        "fill",
        "canny",
        "guidance",
        "depth",
        "json",
        "shard",
        "index",
        "sd3 vae",
        "no transformer",
    ],
)
def test_folders_that_are_refused(folder, tmp_path, change, message):
    copy = changed(folder, tmp_path, change)

    def use():
        files = ModelFiles.find(model=copy, with_pulid=False)
        flux_shape(files.flux.header)
        load_vae(files.vae.header, torch.float32)

    with pytest.raises(WeightsError, match=message):
        use()


def test_one_shard_is_not_the_model(folder):
    shard = next(iter(sorted((folder / "transformer").glob("*-00001-*"))))
    with pytest.raises(
        WeightsError, match="is one part of a model in several files; give the folder"
    ):
        ModelFiles.find(model=shard, with_pulid=False)
