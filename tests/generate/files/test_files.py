"""The files people have: all-in-one checkpoints, diffusers folders, repository ids, every public
FLUX.1; and what is refused, by name.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Q
from safetensors.torch import load_file, save_file
from support.distances import relative
from support.flux_files import (
    ALL_IN_ONE,
    all_in_one,
    cached_repository,
    pipeline_folder,
    write_gguf,
)
from support.golden_flux import inputs, tensors, velocity
from support.micro_flags import model_flags

from pulid_extract.shared.model_files import (
    candidates_in,
    kind_of,
    kinds_of,
    read_gguf,
    read_header,
)
from pulid_extract.shared.model_files.kinds import PREFIXES
from pulid_generate.errors import CheckpointError, WeightsError
from pulid_generate.files.model_set import ModelFiles
from pulid_generate.files.roles import CLIP_L, FLUX, T5XXL, VAE
from pulid_generate.models.autoencoder import load_vae
from pulid_generate.models.clip import ClipText
from pulid_generate.models.flux import flux_shape, load_flux
from pulid_generate.models.t5 import T5Text
from pulid_generate.packed.fp8 import Fp8Linear

ROLES = {"flux": FLUX, "vae": VAE, "clip_l": CLIP_L, "t5xxl": T5XXL}
FILES = {"flux": "flux1-schnell", "vae": "ae", "clip_l": "clip_l", "t5xxl": "t5xxl_fp16"}


@pytest.fixture(scope="module")
def whole(micro, tmp_path_factory):
    return all_in_one(micro, tmp_path_factory.mktemp("aio") / "flux1-schnell-all.safetensors")


@pytest.fixture(scope="module")
def folder(micro, tmp_path_factory):
    return pipeline_folder(micro, tmp_path_factory.mktemp("pipelines") / "FLUX.1-micro")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def loaded(files: ModelFiles):
    """The four models of a set."""
    return {
        "flux": load_flux(files.flux.header, torch.float32),
        "vae": load_vae(files.vae.header, torch.float32),
        "clip_l": ClipText.load(files.clip_l.header, torch.float32).model,
        "t5xxl": T5Text.load(files.t5xxl.header, torch.float32).model,
    }


@pytest.fixture(scope="module")
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


def assert_same(models, others):
    for name, model in models.items():
        ours, theirs = model.state_dict(), others[name].state_dict()
        assert set(ours) == set(theirs), name
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


# --------------------------------------------------------------------------------------- all-in-one


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


# ---------------------------------------------------------------------------------------- diffusers


def test_a_pipeline_folder_is_an_all_in_one(folder, separate):
    files = ModelFiles.find(model=folder, with_pulid=False)
    assert files.t5_tokenizer == folder / "tokenizer_2" / "tokenizer.json"
    assert files.flux.name == "FLUX.1-micro"
    models = loaded(files)
    assert_same({name: models[name] for name in ("flux", "vae", "clip_l", "t5xxl")}, separate)


@pytest.mark.parametrize("name", FILES)
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
            r"no repository of that name in the Hugging Face cache; if it is one, run 'hf download nobody/nothing'",
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


# ------------------------------------------------------------------------- public files, and others


@pytest.mark.parametrize(
    ("name", "guidance"),
    [("schnell", False), ("dev", True), ("krea-dev", True), ("kontext-dev", True)],
)
def test_every_public_flux_loads(golden_shapes, tmp_path, name, guidance):
    """Krea-dev and Kontext-dev have dev's names and shapes; Kontext draws from text like the
    others.
    """
    shapes = golden_shapes("flux")["dev" if guidance else "schnell"]
    small = {
        key: shape
        for key, shape in shapes.items()
        if not key.startswith(("double", "single")) or int(key.split(".")[1]) < 1
    }
    save_file(tensors(small, torch.bfloat16), tmp_path / f"flux1-{name}.safetensors")
    header = read_header(tmp_path / f"flux1-{name}.safetensors")
    assert flux_shape(header).guidance == guidance
    flux = load_flux(header, torch.float32)
    assert hasattr(flux.time_text_embed, "guidance_embedder") == guidance


ONE = torch.zeros(4, 4)
FLUX_PART = {"img_in.weight": ONE, "double_blocks.0.img_attn.qkv.weight": ONE}
REFUSED = {
    "quanto": (FLUX_PART | {"double_blocks.0.img_attn.qkv.weight._data": ONE}, "quanto"),
    "nf4": (FLUX_PART | {"a.weight.absmax": ONE, "a.weight.quant_map": ONE}, "bitsandbytes nf4"),
    "bnb int8": (FLUX_PART | {"a.SCB": ONE}, "bitsandbytes int8"),
    "nvfp4": (FLUX_PART | {"a.weight_scale_2": ONE}, "nvfp4"),
    "int8": (FLUX_PART | {"a.weight": ONE.to(torch.int8)}, "int8 file"),
    "svdquant": (FLUX_PART | {"a.qweight": ONE}, "SVDQuant"),
    "sdxl pulid": (
        {"id_adapter.latents": ONE, "id_adapter_attn_layers.0.id_to_k.weight": ONE},
        "SDXL PuLID",
    ),
    "flux.2": (FLUX_PART | {"double_stream_modulation_img.lin.weight": ONE}, "FLUX.2 checkpoint"),
    "flux.2 diffusers": (
        {
            "x_embedder.weight": ONE,
            "context_embedder.weight": ONE,
            "double_stream_modulation_img.linear.weight": ONE,
        },
        "FLUX.2 checkpoint",
    ),
    "chroma": (FLUX_PART | {"distilled_guidance_layer.in_proj.weight": ONE}, "Chroma"),
    "sd3": (
        {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": ONE},
        "Stable Diffusion 3",
    ),
    "sd3 diffusers": (
        {"pos_embed.proj.weight": ONE, "context_embedder.weight": ONE},
        "Stable Diffusion 3",
    ),
    "sdxl": (
        {
            "model.diffusion_model.input_blocks.0.0.weight": ONE,
            "model.diffusion_model.out.2.weight": ONE,
        },
        r"Stable Diffusion checkpoint \(SDXL or older\)",
    ),
    "pulid": (
        {"pulid_ca.0.norm1.weight": ONE},
        "is a PuLID-FLUX file, --model wants a Flux transformer",
    ),
}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("kind", REFUSED)
def test_other_files_are_refused_by_name(tmp_path, kind, prefix):
    state, message = REFUSED[kind]
    state = {
        name if name.startswith(("model.", "id_", "pulid")) else prefix + name: value.clone()
        for name, value in state.items()
    }
    save_file(state, tmp_path / "f.safetensors")
    for flag in ("model", "flux"):
        with pytest.raises(
            WeightsError,
            match=message.replace(
                "--model", {"model": "--model", "flux": "--diffusion-model"}[flag]
            ),
        ):
            ModelFiles.find(**{flag: tmp_path / "f.safetensors"}, models_dir=None, with_pulid=False)


def test_a_refused_transformer_does_not_spoil_the_rest_of_its_file(micro, tmp_path):
    path = all_in_one(micro, tmp_path / "nf4.safetensors")
    save_file(load_file(path) | {"model.diffusion_model.a.weight.absmax": ONE}, path)
    tokenizer = micro / "tokenizer.json"
    with pytest.raises(WeightsError, match="bitsandbytes nf4"):
        ModelFiles.find(model=path, t5_tokenizer=tokenizer, with_pulid=False)
    flux = micro / "flux1-schnell.safetensors"
    assert (
        ModelFiles.find(model=path, flux=flux, t5_tokenizer=tokenizer, with_pulid=False).vae.path
        == path
    )


@pytest.mark.parametrize("extra", ["quant_conv.weight", "bn.running_mean"])
def test_other_autoencoders_are_refused(micro, tmp_path, extra):
    save_file(load_file(micro / "ae.safetensors") | {extra: ONE}, tmp_path / "ae.safetensors")
    header = read_header(tmp_path / "ae.safetensors")
    assert kind_of(header).refusal
    narrow = {"decoder.conv_in.weight": torch.zeros(128, 4, 3, 3)}
    save_file(load_file(micro / "ae.safetensors") | narrow, tmp_path / "ae.safetensors")
    with pytest.raises(CheckpointError, match="latents of 4 channels"):
        load_vae(read_header(tmp_path / "ae.safetensors"), torch.float32)


def test_a_pickle_of_a_text_encoder_is_not_opened(micro, tmp_path):
    torch.save(load_file(micro / "clip_l.safetensors"), tmp_path / "clip.pt")
    with pytest.raises(CheckpointError, match="is a torch pickle"):
        ClipText.load(read_header(tmp_path / "clip.pt"), torch.float32)


@pytest.mark.parametrize("kind", ["pruned", "numbers"])
def test_odd_gguf_files_are_refused(tmp_path, kind):
    zeros = np.zeros((32, 32), np.float32)
    path = write_gguf(
        tmp_path / "f.gguf",
        {"img_in.weight": (zeros, Q.Q8_0), "double_blocks.0.img_attn.qkv.weight": (zeros, Q.F16)},
    )
    if kind == "pruned":
        with pytest.raises(CheckpointError, match=r"missing txt_in\.weight"):
            flux_shape(read_header(path))
        return
    header = read_header(path)
    with pytest.raises(CheckpointError, match=r"img_in\.weight is stored as I32"):
        flux_shape(
            replace(header, tensors=dict(header.tensors) | {"img_in.weight": ("I32", (32, 32))})
        )


def test_gguf_headers_that_lie_are_one_error(tmp_path):
    zeros = np.zeros((32, 32), np.float32)
    good = write_gguf(tmp_path / "good.gguf", {"a": (zeros, Q.Q8_0)}, "flux").read_bytes()
    count = good.index(b"general.architecture")
    cases = {
        "version": good[:4] + (9).to_bytes(4, "little") + good[8:],
        "tensors": good[:8] + (2**60).to_bytes(8, "little") + good[16:],
        "values": good[:16] + (2**60).to_bytes(8, "little") + good[24:],
        "text": good[: count - 8] + (2**60).to_bytes(8, "little") + good[count:],
        "no text": good[:count] + b"\xff" * 20 + good[count + 20 :],
        "cut": good[:-8],
        "header cut": good[: count + 4],
    }
    assert read_gguf(tmp_path / "good.gguf").tensors["a"].shape == (32, 32)
    for name, data in cases.items():
        (tmp_path / "bad.gguf").write_bytes(data)
        with pytest.raises(WeightsError, match="damaged or truncated GGUF"):
            read_header(tmp_path / "bad.gguf")
        assert data != good, name


# ----------------------------------------------------------------------------------------- pictures


def draw(generate, path, *flags):
    from PIL import Image

    common = (
        "-p",
        "a cat",
        "-W",
        64,
        "-H",
        48,
        "--steps",
        1,
        "--device",
        "cpu",
        "--disable-image-metadata",
    )
    result = generate(*common, *flags, "-o", path)
    assert result.code == 0, result.err
    with Image.open(path) as picture:
        return np.asarray(picture), result.err


def test_one_file_one_folder_and_four_files_draw_the_same_picture(
    generate, whole, folder, micro, tmp_path
):
    tokenizer = ("--t5-tokenizer", micro / "tokenizer.json")
    truth, _ = draw(generate, tmp_path / "files.png", *model_flags(micro))
    one, _ = draw(generate, tmp_path / "one.png", "--model", whole, *tokenizer)
    assert np.array_equal(one, truth)
    assert np.array_equal(draw(generate, tmp_path / "folder.png", "-m", folder)[0], truth)
    other, _ = draw(generate, tmp_path / "other.png", "--model", whole, *tokenizer, "--seed", 43)
    assert not np.array_equal(other, truth)


def test_e5m2_is_noted_and_drawn(generate, micro, tmp_path):
    path = all_in_one(
        micro,
        tmp_path / "e5m2.safetensors",
        change=lambda name, tensor: (
            tensor.to(torch.float8_e5m2) if name.startswith("model.diffusion_model.") else tensor
        ),
    )
    tokenizer = ("--t5-tokenizer", micro / "tokenizer.json")
    kept, said = draw(generate, tmp_path / "kept.png", "--model", path, *tokenizer)
    assert "fp8 e5m2" in said
    widened, _ = draw(
        generate, tmp_path / "widened.png", "--model", path, "--dequantize", *tokenizer
    )
    assert np.abs(kept.astype(int) - widened).max() <= 1
