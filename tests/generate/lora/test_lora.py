"""LoRA: every format against weights merged by hand and against diffusers' converters; on every
kind of layer, and off again.
"""

from __future__ import annotations

import json

import pytest
import torch
from support.distances import relative
from support.models.lora_files import (
    BFL_SPELLINGS,
    FUSED,
    KOHYA,
    LAYER,
    PEFT,
    bfl_lora,
    drawn_with,
    flux,
    merged,
    pair,
    products_of,
    velocity,
    write,
)
from support.tokens import clip_ids, t5_ids

from pulid_generate.errors import WeightsError
from pulid_generate.files.model import Model
from pulid_generate.lora.files import read_lora, resolve
from pulid_generate.lora.hooks import attach_loras, linear_shapes

DIFFUSERS_SPELLINGS = {
    "diffusers": (lambda name: f"transformer.{name}", PEFT),
    "diffusers, old leaves": (
        lambda name: f"transformer.{name}",
        ("lora.down.weight", "lora.up.weight"),
    ),
    "peft": (lambda name: f"base_model.model.{name}", PEFT),
    "bare": (lambda name: name, PEFT),
    "onetrainer": (lambda name: f"lora_transformer_{name.replace('.', '_')}", KOHYA),
}


def diffusers_lora(shapes, spell, leaves):
    tensors, deltas = {}, {}
    for seed, layer in enumerate(layer for layers in FUSED.values() for layer in layers):
        down, up = pair(*shapes[layer], seed)
        tensors[f"{spell(layer)}.{leaves[0]}"], tensors[f"{spell(layer)}.{leaves[1]}"] = down, up
        deltas[layer] = up @ down
    return tensors, deltas


# ------------------------------------------------------------------------------------------ formats


@pytest.mark.parametrize("alpha", [None, 1.5])
@pytest.mark.parametrize("spelling", BFL_SPELLINGS)
def test_bfl_names_equal_merged_weights(model, tmp_path, spelling, alpha):
    tensors, deltas = bfl_lora(linear_shapes(model), *BFL_SPELLINGS[spelling], alpha)
    path = write(tmp_path / "l.safetensors", tensors)
    truth = velocity(merged(model, deltas))
    assert relative(drawn_with(model, path), truth) < 2e-6
    assert relative(velocity(model), truth) > 0.01
    assert relative(drawn_with(model, path, 0.5), truth) > 0.01


@pytest.mark.parametrize("spelling", DIFFUSERS_SPELLINGS)
def test_diffusers_names_equal_merged_weights(model, tmp_path, spelling):
    tensors, deltas = diffusers_lora(linear_shapes(model), *DIFFUSERS_SPELLINGS[spelling])
    path = write(tmp_path / "l.safetensors", tensors)
    assert relative(drawn_with(model, path), velocity(merged(model, deltas))) < 2e-6
    assert relative(drawn_with(model, path, 0.0), velocity(merged(model, deltas))) > 0.01


def xlabs_lora(width: int, prefix: str = ""):
    sizes = {
        "double_blocks.0.processor.qkv_lora1": (3 * width, width),
        "double_blocks.1.processor.qkv_lora2": (3 * width, width),
        "double_blocks.1.processor.proj_lora1": (width, width),
        "double_blocks.1.processor.proj_lora2": (width, width),
        "single_blocks.1.processor.qkv_lora": (3 * width, width),
        "single_blocks.1.processor.proj_lora": (width, 5 * width),
    }
    tensors = {}
    for seed, (name, size) in enumerate(sizes.items()):
        tensors[f"{prefix}{name}.down.weight"], tensors[f"{prefix}{name}.up.weight"] = pair(
            *size, seed
        )
    return tensors


@pytest.mark.parametrize("source", ["kohya", "xlabs"])
def test_names_are_diffusers_on_a_flux_of_the_public_width(tmp_path, source):
    """diffusers' converters have 3072 written into them; ours have the model's width."""
    from diffusers.loaders import lora_conversion_utils as theirs

    shapes = linear_shapes(flux(3072, device="meta"))
    if source == "kohya":
        tensors, _ = bfl_lora(shapes, *BFL_SPELLINGS["kohya"], alpha=1.5)
        converted = theirs._convert_kohya_flux_lora_to_diffusers(dict(tensors))
    else:
        tensors = xlabs_lora(3072)
        converted = theirs._convert_xlabs_flux_lora_to_diffusers(dict(tensors))
    ours = resolve(read_lora(write(tmp_path / "l.safetensors", tensors)), Model.FLUX, shapes)
    converted = {name.removeprefix("transformer."): tensor for name, tensor in converted.items()}
    assert {f"{layer}.{leaf}" for layer in ours for leaf in PEFT} == set(converted)
    for layer, product in ours.items():
        # diffusers moves the scale into one of the matrices, and forgets the final layer's ("TODO:
        # alphas")
        scale = 1 if layer in ("proj_out", "norm_out.linear") else product.scale
        probe = torch.randn(2, product.down.shape[1], generator=torch.Generator().manual_seed(1))
        down, up = converted[f"{layer}.lora_A.weight"], converted[f"{layer}.lora_B.weight"]
        assert relative(scale * probe @ product.down.T @ product.up.T, probe @ down.T @ up.T) < 1e-6


@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
def test_xlabs_is_split_by_rows(model, tmp_path, prefix):
    tensors = xlabs_lora(256, prefix)
    ours = products_of(write(tmp_path / "l.safetensors", tensors), model)
    name = f"{prefix}single_blocks.1.processor.qkv_lora"
    for index, part in enumerate("qkv"):
        product = ours[f"single_transformer_blocks.1.attn.to_{part}"]
        assert torch.equal(
            product.up, tensors[f"{name}.up.weight"][index * 256 : (index + 1) * 256]
        )
        assert torch.equal(product.down, tensors[f"{name}.down.weight"])
        assert product.scale == 1
    assert "single_transformer_blocks.1.proj_mlp" not in ours


@pytest.mark.parametrize(
    ("metadata", "scale"),
    [
        (None, 1),
        ({"transformer.lora_alpha": 6, "transformer.r": 3}, 2),
        ({"transformer.lora_alpha": 6, "transformer.use_rslora": True}, 6 / 3**0.5),
        ({"transformer.lora_alpha": 6, "transformer.alpha_pattern": {"to_q": 12}}, 4),
        (
            {
                "transformer.lora_alpha": 6,
                "transformer.alpha_pattern": {"^transformer_blocks.0.attn.to_q": 1.5},
            },
            0.5,
        ),
        ({"transformer.lora_alpha": 6, "transformer.alpha_pattern": {"to_k": 12}}, 2),
        ({"text_encoder.lora_alpha": 6}, 1),
    ],
)
def test_alphas_of_the_metadata(tmp_path, metadata, scale):
    down, up = pair(256, 256, 0)
    written = metadata and {"lora_adapter_metadata": json.dumps(metadata)}
    path = write(
        tmp_path / "l.safetensors",
        {f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": up},
        written,
    )
    assert read_lora(path).products[Model.FLUX][
        "transformer_blocks.0.attn.to_q"
    ].scale == pytest.approx(scale)


def test_pefts_description_beside_its_file(tmp_path):
    down, up = pair(256, 256, 0)
    tensors = {
        "base_model.model.proj_out.lora_A.weight": down,
        "base_model.model.proj_out.lora_B.weight": up,
    }
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"lora_alpha": 9, "use_rslora": False})
    )
    for name, scale in (("adapter_model.safetensors", 3), ("another.safetensors", 1)):
        assert (
            read_lora(write(tmp_path / name, tensors)).products[Model.FLUX]["proj_out"].scale
            == scale
        )
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(WeightsError, match="description of its alphas cannot be read"):
        read_lora(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"use_dora": true}')
    with pytest.raises(WeightsError, match=r"is a DoRA .* without its magnitudes"):
        read_lora(tmp_path / "adapter_model.safetensors")


@pytest.mark.parametrize("model_name", [Model.CLIP, Model.T5])
def test_text_encoders(micro, tmp_path, model_name):
    from pulid_extract.shared.model_files import read_header
    from pulid_generate.models.clip import ClipText
    from pulid_generate.models.t5 import T5Text

    if model_name == Model.CLIP:
        text = ClipText.load(read_header(micro / "clip_l.safetensors"), torch.float32)
        layer, names = (
            "encoder.layers.0.mlp.fc1",
            [
                "lora_te1_text_model_encoder_layers_0_mlp_fc1",
                "text_encoder.text_model.encoder.layers.0.mlp.fc1",
                "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1",
            ],
        )
    else:
        text = T5Text.load(read_header(micro / "t5xxl_fp16.safetensors"), torch.float32)
        layer, names = (
            "encoder.block.0.layer.0.SelfAttention.q",
            [
                "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
                "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q",
            ],
        )

    def states():
        with torch.inference_mode():
            vocabulary = micro / "tokenizer.json"
            if model_name == Model.CLIP:
                return text.encode(clip_ids(vocabulary, "a cat"))
            return text.encode(t5_ids(vocabulary, "a cat", 16))

    shapes = linear_shapes(text.model)
    layer = layer if layer in shapes else f"text_model.{layer}"
    down, up = pair(*shapes[layer], 0)
    plain = states()
    weight = text.model.get_submodule(layer).weight
    kept = weight.detach().clone()
    weight.data += up @ down
    truth = states()
    weight.data = kept
    assert relative(plain, truth) > 1e-4
    for name in names:
        tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        if model_name == Model.CLIP:  # comes after what Flux reads
            projection = pair(64, 64, 1)
            tensors |= {
                f"lora_te1_text_projection.{leaf}": tensor
                for leaf, tensor in zip(KOHYA, projection, strict=True)
            }
        lora = read_lora(write(tmp_path / "l.safetensors", tensors))
        assert lora.models == (model_name,)
        with attach_loras(
            text.model, [(resolve(lora, model_name, shapes), 1.0)], torch.float32, "cpu"
        ):
            assert relative(states(), truth) < 2e-6
        assert torch.equal(states(), plain)
