"""LoRA files that cannot be applied whole: each is refused by what it is, or by the layer that does
not fit.
"""

from __future__ import annotations

import pytest
import torch
from support.models.lora_files import (
    KOHYA,
    LAYER,
    flux,
    hooks_of,
    plain_lora,
    products_of,
    velocity,
    write,
)

from pulid_generate.errors import WeightsError
from pulid_generate.files.layouts import FluxShape
from pulid_generate.files.model import Model
from pulid_generate.lora.files import left_out, read_lora, resolve
from pulid_generate.lora.hooks import attach_lora_files, linear_shapes
from pulid_generate.lora.names import flux_layers

ONE = torch.ones(1)


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        ({f"{LAYER}.lokr_t2": ONE}, "a LoCon with a middle matrix"),
        ({f"{LAYER}.w_norm": ONE}, "a LyCORIS with trained norms"),
        (
            {"diffusion_model.double_stream_modulation_img.lin.lora_A.weight": ONE},
            "a LoRA for FLUX",
        ),
        ({f"{LAYER}.lora_mid.weight": ONE}, "a LoCon with a middle matrix"),
        ({f"{LAYER}.oft_blocks": ONE}, "an OFT"),
        ({"lora_controlnet": ONE}, "a ControlNet"),
        (
            {"double_blocks.0.img_attn.norm.query_norm.scale": ONE},
            "a control LoRA, FLUX.1 Canny or Depth",
        ),
        ({"lora_unet_input_blocks_4_1_proj_in.lora_down.weight": ONE}, "a LoRA for SD 1.5 or SDXL"),
        (
            {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": ONE},
            "a LoRA for SD 1.5 or SDXL",
        ),
        ({"unet.up_blocks.1.attentions.0.proj_in.lora_A.weight": ONE}, "a LoRA for SD 1.5 or SDXL"),
        ({"lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight": ONE}, "a LoRA for SD 3"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path, extra, what):
    path = write(tmp_path / "l.safetensors", {**plain_lora(), **extra})
    with pytest.raises(WeightsError, match=what) as caught:
        read_lora(path)
    assert str(caught.value).startswith(f"{path}: is {what}")
    assert next(iter(extra)) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"proj_out.weight": torch.ones(2, 2)}, "holds no lora_A or lora_down"),
        ({f"{LAYER}.alpha": ONE}, "holds no lora_A or lora_down"),
        (
            {f"{LAYER}.lora_A.weight": torch.ones(2, 2)},
            r"transformer_blocks.0.attn.to_q: lacks its up matrix",
        ),
        ({f"{LAYER}.lora_B.weight": torch.ones(2, 2)}, r"lacks its down matrix"),
        (
            {**plain_lora(), f"{LAYER}.lora_B.weight": torch.ones(256, 5)},
            r"matrices are 256x5 and 3x256, which do not multiply",
        ),
        (
            {**plain_lora(), f"{LAYER}.lora_A.weight": torch.ones(3, 256, 3, 3)},
            "which do not multiply",
        ),
        (
            {**plain_lora(), f"{LAYER}.lora_A.weight": torch.full((3, 256), torch.nan)},
            "holds NaN or infinite numbers",
        ),
        (
            {**plain_lora(), f"{LAYER}.alpha": torch.tensor(torch.inf)},
            "holds NaN or infinite numbers",
        ),
        ({**plain_lora(), f"{LAYER}.alpha": torch.ones(2)}, "several alphas"),
        ({**plain_lora(), f"{LAYER}.lora_B.bias": ONE}, "its bias is not 256 numbers"),
        ({**plain_lora(), f"{LAYER}.diff": ONE}, "diff is a whole difference of a weight"),
        (
            {**plain_lora(), "a.b.diff_b": ONE},
            "is a difference of the bias of a layer whose weight",
        ),
        (
            {**plain_lora(), "bundle_emb.mytoken.clip_l": ONE},
            r"bundle_emb.mytoken.clip_l is an embedding for a word of the prompt .* OneTrainer",
        ),
        ({**plain_lora(), "something": ONE}, "something is not part of a LoRA"),
        (
            {**plain_lora(), f"{LAYER}.lora_A.other.weight": ONE},
            r"lora_A.other.weight and .*lora_A.weight are the same of one layer; use a file with one",
        ),
        ({f"{LAYER}.hada_w1_a": torch.ones(4, 2)}, "lacks its hada_w1_b matrix"),
        (
            {
                **{f"{LAYER}.hada_w{i}_a": torch.ones(4 * i, 2) for i in (1, 2)},
                **{f"{LAYER}.hada_w{i}_b": torch.ones(2, 4) for i in (1, 2)},
            },
            "its two products have other shapes",
        ),
        ({f"{LAYER}.lokr_w1": ONE, f"{LAYER}.lokr_w2": torch.ones(2, 2)}, "lokr_w1 is 1, expected"),
        ({f"{LAYER}.lokr_w1": torch.ones(2, 2)}, "lacks its lokr_w2_a matrix"),
        ({**plain_lora(), f"{LAYER}.dora_scale": torch.ones(3)}, "its magnitudes are 3, expected"),
        (
            {
                **plain_lora(),
                f"{LAYER}.dora_scale": torch.ones(256),
                f"{LAYER}.diff_b": torch.ones(256),
            },
            "is a DoRA that changes the bias as well",
        ),
    ],
)
def test_a_damaged_lora_is_refused(tmp_path, tensors, message):
    path = write(tmp_path / "l.safetensors", tensors)
    with pytest.raises(WeightsError, match=message) as caught:
        read_lora(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {
                "transformer.no_such.layer.lora_A.weight": torch.ones(1, 1),
                "transformer.no_such.layer.lora_B.weight": torch.ones(1, 1),
            },
            "no_such.layer is not a layer of this Flux",
        ),
        (
            {**plain_lora(), **plain_lora("transformer.transformer_blocks.9.attn.to_q")},
            r"transformer_blocks.9.attn.to_q is not a layer of this Flux",
        ),
        (
            plain_lora("lora_unet_double_blocks_7_img_mlp_0", (1024, 256), KOHYA),
            "double_blocks_7_img_mlp_0 is not a layer",
        ),
        (plain_lora("transformer.transformer_blocks.0.attn.norm_q"), "norm_q is not a layer"),
        (plain_lora(size=(512, 256)), "to_q is for 512 x 256 weights, this Flux has 256 x 256"),
        (plain_lora(size=(256, 128)), "to_q is for 256 x 128 weights"),
        (
            plain_lora("lora_unet_single_blocks_0_linear1", (768, 256), KOHYA),
            "single_blocks_0_linear1 is for 768 x 256 weights, this Flux has 1792 x 256",
        ),
        (
            {**plain_lora(), **plain_lora("double_blocks.0.img_attn.qkv", (768, 256))},
            "transformer_blocks.0.attn.to_q twice",
        ),
    ],
)
def test_a_lora_is_applied_whole_or_not_at_all(model, tmp_path, tensors, message):
    path = write(tmp_path / "l.safetensors", tensors)
    with pytest.raises(WeightsError, match=message) as caught:
        products_of(path, model)
    assert str(caught.value).startswith(f"{path}: ")


def test_zeros_for_layers_that_flux_has_not_are_no_reason_to_refuse(model, tmp_path):
    zeros = {
        "text_encoders.t5xxl.transformer.shared.lora_A.weight": torch.ones(2, 4),
        "text_encoders.t5xxl.transformer.shared.lora_B.weight": torch.zeros(4, 2),
        "transformer.extra.lora_A.weight": torch.ones(2, 4),
        "transformer.extra.lora_B.weight": torch.zeros(4, 2),
        f"{LAYER}.diff_b": torch.zeros(256),
    }
    path = write(tmp_path / "l.safetensors", {**plain_lora(), **zeros})
    assert list(products_of(path, model)) == ["transformer_blocks.0.attn.to_q"]
    assert not resolve(read_lora(path), Model.T5, {})


def test_schnell_does_without_guidance_layers(kohya):
    """The others apply, and a note names them."""
    schnell, dev = (linear_shapes(flux(guidance=guidance)) for guidance in (False, True))
    lora = read_lora(kohya)
    assert left_out(lora, Model.FLUX, schnell) == ["guidance_in_in_layer"]
    assert left_out(lora, Model.FLUX, dev) == []
    guidance = "time_text_embed.guidance_embedder.linear_1"
    ours, theirs = resolve(lora, Model.FLUX, schnell), resolve(lora, Model.FLUX, dev)
    assert guidance in theirs
    assert ours.keys() == theirs.keys() - {guidance}


@pytest.mark.parametrize("guidance", [True, False])
def test_sizes_can_be_checked_from_a_header_alone(guidance):
    shape = FluxShape(width=256, double=2, single=2, context=64, pooled=32, guidance=guidance)
    assert flux_layers(shape) == linear_shapes(flux(guidance=guidance, device="meta"))


def test_a_file_for_several_models_goes_to_each_in_part(model, tmp_path):
    clip = plain_lora("text_encoder.text_model.encoder.layers.0.mlp.fc1", (8, 4))
    lora = read_lora(write(tmp_path / "l.safetensors", {**plain_lora(), **clip}))
    assert set(lora.models) == {Model.FLUX, Model.CLIP}
    before = velocity(model)
    with attach_lora_files(model, Model.FLUX, [(lora, 1.0)], torch.float32, "cpu"):
        assert hooks_of(model) == 1
        assert not torch.equal(velocity(model), before)
    with attach_lora_files(model, Model.T5, [(lora, 1.0)], torch.float32, "cpu"):
        assert hooks_of(model) == 0
    with (
        pytest.raises(WeightsError, match="not a layer of this CLIP-L"),
        attach_lora_files(model, Model.CLIP, [(lora, 1.0)], torch.float32, "cpu"),
    ):
        pass
    assert hooks_of(model) == 0


def test_other_files_are_refused(micro, tmp_path):
    with pytest.raises(WeightsError, match=r"holds no lora_A or lora_down.*Flux"):
        read_lora(micro / "flux1-schnell.safetensors")
    (tmp_path / "l.safetensors").write_bytes(b"<html>")
    with pytest.raises(WeightsError, match="HTML"):
        read_lora(tmp_path / "l.safetensors")
    torch.save({}, tmp_path / "l.pt")
    with pytest.raises(
        WeightsError, match=r"l.pt: is a torch file; only LoRA files in safetensors are read"
    ):
        read_lora(tmp_path / "l.pt")
