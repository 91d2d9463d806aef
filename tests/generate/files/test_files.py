"""Every public FLUX.1, files that are refused by name, and one picture from every form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Q
from safetensors.torch import load_file, save_file
from support.models.flux_files import all_in_one, write_gguf
from support.models.golden_flux import tensors
from support.models.micro_flags import bare_picture, model_flags

from pulid_extract.shared.model_files import kind_of, read_gguf, read_header
from pulid_generate.errors import CheckpointError, WeightsError
from pulid_generate.files.model_set import ModelFiles
from pulid_generate.models.autoencoder import load_vae
from pulid_generate.models.clip import ClipText
from pulid_generate.models.flux import flux_shape, load_flux

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

    result = generate(*bare_picture(steps=1), *flags, "-o", path)
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
