"""LoRA on every kind of layer: put on, weighted, put beside PuLID's hooks, and taken off again."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from support.distances import relative
from support.models.lora_files import (
    attached,
    drawn_with,
    hooks_of,
    merged,
    pair,
    products_of,
    velocity,
)
from torch import nn

from pulid_generate.lora.changes import Product
from pulid_generate.lora.hooks import linear_shapes


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
