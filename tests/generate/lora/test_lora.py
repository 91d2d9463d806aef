"""LoRA: every format against weights merged by hand and against diffusers' converters; on every
kind of layer, and off again.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from support.distances import relative
from support.lora_files import (
    BFL_SPELLINGS,
    FUSED,
    KOHYA,
    LAYER,
    PEFT,
    bfl_lora,
    flux,
    hooks_of,
    pair,
    products_of,
    velocity,
    write,
)
from support.tokens import clip_ids, t5_ids
from torch import nn

from pulid_generate.errors import WeightsError
from pulid_generate.files.model import Model
from pulid_generate.lora.changes import Product
from pulid_generate.lora.files import read_lora, resolve
from pulid_generate.lora.hooks import attach_loras, linear_shapes


@pytest.fixture(scope="module")
def model():
    return flux()


def merged(model, deltas: dict[str, torch.Tensor]):
    """A copy of the model with deltas added to its weights, by hand."""
    copy = flux()
    state = model.state_dict()
    copy.load_state_dict(
        {name: state[name] + deltas.get(name.removesuffix(".weight"), 0) for name in state}
    )
    return copy


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


def drawn_with(model, path: Path, weight: float = 1.0) -> torch.Tensor:
    with attached(model, [(products_of(path, model), weight)]):
        return velocity(model)


def attached(model, loras, dtype=torch.float32):
    return attach_loras(model, loras, dtype, "cpu")


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


# -------------------------------------------------------------------------------------- application


@pytest.fixture(scope="module")
def kohya(model, tmp_path_factory) -> Path:
    tensors, _ = bfl_lora(linear_shapes(model), *BFL_SPELLINGS["kohya"], alpha=1.5)
    return write(tmp_path_factory.mktemp("lora") / "kohya.safetensors", tensors)


def test_off_again_the_model_is_bit_for_bit_what_it_was(model, kohya):
    before, state = (
        velocity(model),
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
    )
    products = products_of(kohya, model)
    with attached(model, [(products, 1.0)]):
        assert hooks_of(model) == len(products) > 10
        assert set(model.state_dict()) == set(state)
        assert not torch.equal(velocity(model), before)
    with pytest.raises(RuntimeError, match="shape"), attached(model, [(products, 1.0)]):
        model.proj_out(torch.ones(1, 1))  # leaving by an error removes them as well
    assert hooks_of(model) == 0
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(velocity(model), before)


def test_weights_sum_and_may_be_negative_or_zero(model, kohya):
    products = products_of(kohya, model)
    before = velocity(model)

    def drawn(*used: float):
        with attached(model, [(products, weight) for weight in used]):
            return velocity(model)

    assert torch.equal(drawn(0.0), before)
    assert relative(drawn(0.3, 0.5), drawn(0.8)) < 2e-6
    assert relative(drawn(1.0, -1.0), before) < 2e-6
    assert relative(drawn(-1.0), drawn(1.0)) > 0.01
    with attached(model, []):
        assert torch.equal(velocity(model), before)


def test_attaching_twice_is_an_error_and_leaves_the_first(model, kohya):
    products = products_of(kohya, model)
    with attached(model, [(products, 1.0)]):
        first = velocity(model)
        with (
            pytest.raises(RuntimeError, match="has LoRAs on it already"),
            attached(model, [(products, 1.0)]),
        ):
            pass
        assert torch.equal(velocity(model), first)
    assert hooks_of(model) == 0


def test_two_loras_of_different_ranks_on_one_layer():
    layer = nn.Sequential(nn.Linear(8, 6))
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(3))
    (a, b), (c, d) = pair(6, 8, 1, rank=2), pair(6, 8, 2, rank=5)
    truth = layer(x) + x @ (0.5 * 2 * b @ a - 0.25 * d @ c).T
    with attached(layer, [({"0": Product(a, b, 2.0)}, 0.5), ({"0": Product(c, d, 1.0)}, -0.25)]):
        assert relative(layer(x).detach(), truth.detach()) < 1e-6
        assert layer(x.double().float()).dtype == torch.float32


def test_quantised_layers(model, kohya):
    import gguf

    from pulid_generate.packed.ggml import QuantizedLinear, QuantizedWeight
    from pulid_generate.packed.layers import keep_packed

    def quantised():
        copy = merged(model, {})
        weights = {}
        for name in (
            "transformer_blocks.1.attn.to_q",
            "single_transformer_blocks.1.proj_mlp",
            "single_transformer_blocks.0.proj_out",
        ):
            data = gguf.quantize(
                copy.get_submodule(name).weight.numpy(), gguf.GGMLQuantizationType.Q8_0
            )
            weights[f"{name}.weight"] = QuantizedWeight(
                torch.from_numpy(data), gguf.GGMLQuantizationType.Q8_0
            )
        biases = {name: copy.get_submodule(name.removesuffix(".weight")).bias for name in weights}
        keep_packed(copy, weights)
        for name, bias in biases.items():
            copy.get_submodule(name.removesuffix(".weight")).bias = bias
        return copy

    ours = quantised()
    assert linear_shapes(ours) == linear_shapes(model)
    products = products_of(kohya, ours)
    truth = quantised()
    for name, product in products.items():
        layer = truth.get_submodule(name)
        if isinstance(layer, QuantizedLinear):
            plain = nn.Linear(layer.in_features, layer.out_features)
            plain.weight.data = QuantizedWeight(layer.data, layer.kind).dequantize(torch.float32)
            plain.bias.data = layer.bias.data
            truth.set_submodule(name, plain)
        truth.get_submodule(name).weight.data += product.scale * product.up @ product.down
    before = velocity(ours)
    with attached(ours, [(products, 1.0)]):
        assert relative(velocity(ours), velocity(truth)) < 2e-6
    assert torch.equal(velocity(ours), before)
    assert relative(before, velocity(truth)) > 0.01


def test_fp8_layers():
    from pulid_generate.packed.fp8 import Fp8Linear, Fp8Weight

    weight = Fp8Weight(
        torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn),
        torch.tensor(0.5),
    )
    model = nn.Sequential(Fp8Linear(weight, bias=False))
    assert linear_shapes(model) == {"0": (6, 8)}
    x, (down, up) = torch.randn(2, 8, generator=torch.Generator().manual_seed(1)), pair(6, 8, 2)
    before = model(x)
    with attached(model, [({"0": Product(down, up, 2.0)}, 0.5)]):
        assert relative(model(x), x @ (weight.dequantize(torch.float32) + up @ down).T) < 1e-6
    assert torch.equal(model(x), before)
    assert relative(before, x @ (weight.dequantize(torch.float32) + up @ down).T) > 0.01


@pytest.mark.parametrize("first", ["widening", "LoRA"])
def test_widened_layers(model, kohya, first):
    from pulid_generate.packed.widening import widen_while_running

    truth = merged(model, {}).bfloat16().float()
    ours = merged(model, {}).bfloat16()
    products = products_of(kohya, truth)
    with attached(truth, [(products, 1.0)]):
        expected = velocity(truth)
    if first == "widening":
        widen_while_running(ours)
    with attached(ours, [(products, 1.0)]):
        if first == "LoRA":
            widen_while_running(ours)
        assert torch.equal(velocity(ours), expected)
    assert torch.equal(velocity(ours), velocity(truth))


def test_bfloat16_is_as_close_as_merged_weights(model, kohya):
    half, products = merged(model, {}).bfloat16(), products_of(kohya, model)
    truth = drawn_with(model, kohya)
    by_hand = merged(
        model,
        {name: product.scale * product.up @ product.down for name, product in products.items()},
    ).bfloat16()
    with attached(half, [(products, 1.0)], torch.bfloat16):
        distance = relative(velocity(half, torch.bfloat16), truth)
    assert distance < 1.5 * relative(velocity(by_hand, torch.bfloat16), truth)
    assert distance < 0.5 * relative(velocity(half, torch.bfloat16), truth)


def test_group_offloading(model, kohya):
    from diffusers.hooks import apply_group_offloading

    ours = merged(model, {})
    products = products_of(kohya, ours)
    before = velocity(ours)
    apply_group_offloading(
        ours,
        onload_device=torch.device("cpu"),
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
    )
    with attached(ours, [(products, 1.0)]):
        assert torch.equal(velocity(ours), drawn_with(model, kohya))
    assert torch.equal(velocity(ours), before)


@pytest.mark.parametrize("order", ["PuLID first", "LoRA first"])
def test_together_with_pulids_hooks(model, kohya, order):
    from pulid_generate.injection.hooks import attach

    layers = [nn.Linear(256, 256).eval().requires_grad_(False) for _ in range(2)]
    products = products_of(kohya, model)
    truth = merged(
        model,
        {name: product.scale * product.up @ product.down for name, product in products.items()},
    )

    def drawn(drawing, outer, inner):
        with outer, inner:
            return velocity(drawing)

    def pulid(drawing):
        context = attach(drawing)
        injection = context.__enter__()
        injection.layers = layers
        return context

    context = pulid(truth)
    expected = velocity(truth)
    context.__exit__(None, None, None)
    assert relative(velocity(truth), expected) > 0.01
    if order == "PuLID first":
        context = pulid(model)
        ours = drawn(model, attached(model, [(products, 1.0)]), nullcontext())
    else:
        with attached(model, [(products, 1.0)]):
            context = pulid(model)
            ours = velocity(model)
    context.__exit__(None, None, None)
    assert relative(ours, expected) < 2e-6
    assert hooks_of(model) == 0


def test_compiled_blocks_notice_that_a_lora_comes_and_goes(model):
    """torch.compile takes no notice of hooks inside what it compiled: without a reset, the second
    picture has the first one's LoRA.
    """
    from torch._dynamo.testing import CompileCounter

    blocks = (
        "transformer_blocks.0",
        "transformer_blocks.1",
        "single_transformer_blocks.0",
        "single_transformer_blocks.1",
    )
    layers = [f"{block}.attn.to_q" for block in blocks]
    products = {layer: Product(*pair(256, 256, seed), 1.0) for seed, layer in enumerate(layers)}
    plain = velocity(model)
    with attached(model, [(products, 1.0)]):
        truth = velocity(model)
    graphs = CompileCounter()
    blocks = [*model.transformer_blocks, *model.single_transformer_blocks]
    for block in blocks:
        block.forward = torch.compile(block.forward, backend=graphs, fullgraph=True)
    try:
        assert torch.equal(velocity(model), plain)
        without = graphs.frame_count
        with attached(model, [(products, 1.0)]):
            assert torch.equal(velocity(model), truth)
            assert torch.equal(velocity(model), truth)
            assert graphs.frame_count == 2 * without < 8  # the blocks still share their graphs
        assert torch.equal(velocity(model), plain)
    finally:
        for block in blocks:
            del block.forward
    assert relative(plain, truth) > 0.005
