"""A Flux read from a file: prefixes, types and scales; what is no whole Flux is refused by name."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from support.distances import relative
from support.models.golden_flux import tensors

from pulid_extract.shared.model_files import read_header
from pulid_generate.errors import CheckpointError, WeightsError
from pulid_generate.models.flux import flux_shape, flux_targets, load_flux


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_prefix_and_dtype_of_the_file_do_not_matter(golden_files, tmp_path, golden_shapes, prefix):
    state = tensors(golden_shapes("flux")["schnell"], torch.bfloat16)
    save_file({prefix + name: value for name, value in state.items()}, tmp_path / "f.safetensors")
    model = load_flux(read_header(tmp_path / "f.safetensors"), torch.float32)
    assert next(model.parameters()).dtype == torch.float32
    assert torch.equal(model.x_embedder.weight, state["img_in.weight"].float())
    assert (
        load_flux(read_header(tmp_path / "f.safetensors"), None).x_embedder.weight.dtype
        == torch.bfloat16
    )


def test_scaled_fp8_is_scaled(golden_files, tmp_path, golden_shapes):
    """Reading the fp8 numbers without their scales raises nothing in other loaders, and draws
    garbage.
    """
    state = tensors(golden_shapes("flux")["schnell"])
    stored = {}
    for name, value in state.items():
        if name.startswith(("double_blocks", "single_blocks")) and value.ndim == 2:
            scale = value.abs().max() / 448
            stored[name] = (value / scale).to(torch.float8_e4m3fn)
            stored[name.replace(".weight", ".scale_weight")] = scale
        else:
            stored[name] = value
    save_file(
        stored | {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}, tmp_path / "f.safetensors"
    )
    model = load_flux(read_header(tmp_path / "f.safetensors"), torch.float32)
    truth = state["double_blocks.0.img_mlp.0.weight"]
    assert (
        relative(model.transformer_blocks[0].ff.net[0].proj.weight.dequantize(torch.float32), truth)
        < 0.05
    )


def test_scales_under_their_newer_name_and_per_row(tmp_path, golden_shapes):
    state = tensors(golden_shapes("flux")["schnell"])
    name = "double_blocks.0.img_mlp.0.weight"
    scale = state[name].abs().amax(dim=1, keepdim=True) / 448
    stored = state | {
        name: (state[name] / scale).to(torch.float8_e4m3fn),
        name.replace(".weight", ".weight_scale"): scale,
    }
    save_file(
        stored | {name.replace(".weight", ".input_scale"): torch.ones(())},
        tmp_path / "f.safetensors",
    )
    model = load_flux(read_header(tmp_path / "f.safetensors"), torch.float32)
    assert (
        relative(
            model.transformer_blocks[0].ff.net[0].proj.weight.dequantize(torch.float32), state[name]
        )
        < 0.05
    )


@pytest.mark.parametrize(
    ("weight", "scale", "message"),
    [
        # nvfp4: two numbers in a byte
        (torch.zeros(512, 64, dtype=torch.uint8), torch.ones(512, 8), "stored as uint8"),
        (torch.zeros(512, 128, dtype=torch.int8), torch.ones(()), "stored as int8"),
        (
            torch.zeros(512, 128).to(torch.float8_e4m3fn),
            torch.ones(512, 4),
            "2048 scales for 512 rows",
        ),  # mxfp8: a scale per block
    ],
)
def test_packed_formats_are_refused_and_not_read_as_numbers(
    tmp_path, golden_shapes, weight, scale, message
):
    state = tensors(golden_shapes("flux")["schnell"])
    name = "double_blocks.0.img_mlp.0.weight"
    save_file(
        state | {name: weight, name.replace(".weight", ".weight_scale"): scale},
        tmp_path / "f.safetensors",
    )
    with pytest.raises(CheckpointError, match=message):
        load_flux(read_header(tmp_path / "f.safetensors"), torch.float32)


def test_scales_of_another_model_in_the_same_file_do_not_count(tmp_path, golden_shapes):
    """An all-in-one file: plain fp8 Flux beside one scaled T5 matrix."""
    state = {
        f"model.diffusion_model.{name}": value
        for name, value in tensors(golden_shapes("flux")["schnell"]).items()
    }
    name = "model.diffusion_model.double_blocks.0.img_mlp.0.weight"
    state[name] = state[name].to(torch.float8_e4m3fn)
    other = {
        "text_encoders.t5xxl.x.weight": torch.zeros(2, 2),
        "text_encoders.t5xxl.x.scale_weight": torch.ones(()),
    }
    save_file(state | other, tmp_path / "f.safetensors")
    model = load_flux(read_header(tmp_path / "f.safetensors"), torch.float32)
    assert torch.equal(
        model.transformer_blocks[0].ff.net[0].proj.weight.dequantize(torch.float32),
        state[name].float(),
    )


def test_a_header_that_lies_about_a_shape_is_one_line(golden_files, tmp_path):
    data = bytearray((golden_files / "schnell.safetensors").read_bytes())
    at = data.index(b'"shape":[128,256]')
    data[at : at + 17] = b'"shape":[128,257]'
    (tmp_path / "f.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match="damaged"):
        load_flux(read_header(tmp_path / "f.safetensors"), torch.float32)


def test_every_name_of_the_full_size_model_maps_to_diffusers(golden_shapes):
    from diffusers import FluxTransformer2DModel

    for name, guidance in (("dev", True), ("schnell", False)):
        with torch.device("meta"):
            model = FluxTransformer2DModel(guidance_embeds=guidance)
        targets = [target for key in golden_shapes("flux")[name] for target in flux_targets(key)]
        assert len(targets) == len(set(targets))
        assert set(targets) == set(model.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img_in.weight": [128, 384]}, "Flux Fill"),
        ({"img_in.weight": [128, 128]}, "Canny or Depth"),
        (
            {"single_blocks.7.linear2.bias": None},
            "missing single_transformer_blocks.7.proj_out.bias",
        ),
        (
            {"double_blocks.0.img_attn.lora": [4, 4]},
            "unknown tensors double_blocks.0.img_attn.lora",
        ),
        (
            {"single_blocks.7.linear2.weight": [128, 512]},
            r"proj_out.weight is \(128, 512\), expected \(128, 640\)",
        ),
        ({"txt_in.weight": None}, "missing txt_in.weight"),
    ],
)
def test_what_is_no_complete_flux_is_refused_by_name(tmp_path, golden_shapes, change, message):
    shapes = golden_shapes("flux")["schnell"] | change
    save_file(
        tensors({name: shape for name, shape in shapes.items() if shape}),
        tmp_path / "f.safetensors",
    )
    with pytest.raises(CheckpointError, match=message):
        load_flux(read_header(tmp_path / "f.safetensors"), torch.float32)


def test_sizes_come_from_the_tensors(golden_files):
    dev, schnell = (
        flux_shape(read_header(golden_files / f"{name}.safetensors")) for name in ("dev", "schnell")
    )
    assert (dev.width, dev.double, dev.single, dev.context, dev.pooled) == (128, 19, 38, 96, 64)
    assert dev.guidance
    assert not schnell.guidance
