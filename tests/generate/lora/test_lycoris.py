"""LoHa, LoKr, DoRA and biases against weights merged by hand, on plain and on packed layers; and
every spelling of one LoRA.
"""

from __future__ import annotations

import gguf
import pytest
import torch
from support.distances import relative
from support.models.lora_files import FUSED, flux, pair, products_of, velocity, write
from torch import nn

from pulid_generate.files.fp8_layers import multiplies_in_fp8
from pulid_generate.files.model import Model
from pulid_generate.lora.changes import (
    MAX_COLUMNS,
    Biased,
    Decomposed,
    Hadamard,
    Kronecker,
    Product,
)
from pulid_generate.lora.files import read_lora
from pulid_generate.lora.hooks import attach_loras
from pulid_generate.packed.fp8 import Fp8Weight
from pulid_generate.packed.fp8_products import use_fp8_products
from pulid_generate.packed.ggml import QuantizedWeight
from pulid_generate.packed.layers import keep_packed

# fused q, k, v; a layer by itself; fused with the MLP; halves exchanged
LAYERS = {
    name: FUSED[name]
    for name in (
        "double_blocks.1.img_attn.qkv",
        "double_blocks.0.txt_mlp.2",
        "single_blocks.1.linear1",
        "final_layer.adaLN_modulation.1",
    )
}
ALPHA = 1.5


@pytest.fixture(scope="module")
def model():
    return flux()


def kohya(name: str) -> str:
    return f"lora_unet_{name.replace('.', '_')}"


def random(*shape: int, seed: int, size: float) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * size


def weight_of(model, name: str) -> torch.Tensor:
    """Of a layer as BFL has it: rows of several one after the other, halves the other way."""
    rows = torch.cat([model.get_submodule(layer).weight.detach() for layer in LAYERS[name]])
    return torch.cat(rows.chunk(2)[::-1]) if name.startswith("final_layer") else rows


def loha(model, rank: int):
    tensors, deltas = {}, {}
    for seed, name in enumerate(LAYERS):
        rows, columns = weight_of(model, name).shape
        own = {}
        for i in (1, 2):
            own[f"hada_w{i}_a"] = random(rows, rank, seed=4 * seed + i, size=0.3)
            own[f"hada_w{i}_b"] = random(rank, columns, seed=4 * seed + 2 + i, size=0.3)
        tensors |= {f"{kohya(name)}.{leaf}": tensor for leaf, tensor in own.items()}
        tensors[f"{kohya(name)}.alpha"] = torch.tensor(ALPHA)
        deltas[name] = (
            (own["hada_w1_a"] @ own["hada_w1_b"])
            * (own["hada_w2_a"] @ own["hada_w2_b"])
            * (ALPHA / rank)
        )
    return tensors, deltas


def lokr(model, form: str):
    """form: "whole" factors, whose alpha means nothing; the second one as "a product"."""
    tensors, deltas = {}, {}
    for seed, name in enumerate(LAYERS):
        rows, columns = weight_of(model, name).shape
        # no border of a layer is one of a block
        left = random(4, 4, seed=seed, size=0.3)
        right = random(rows // 4, columns // 4, seed=seed + 50, size=0.1)
        tensors[f"{kohya(name)}.lokr_w1"] = left
        tensors[f"{kohya(name)}.alpha"] = torch.tensor(ALPHA)
        scale = 1.0
        if form == "whole":
            tensors[f"{kohya(name)}.lokr_w2"] = right
        else:
            down, up = pair(rows // 4, columns // 4, seed, rank=3)
            tensors[f"{kohya(name)}.lokr_w2_a"], tensors[f"{kohya(name)}.lokr_w2_b"] = up, down
            right, scale = up @ down, ALPHA / 3
        deltas[name] = scale * torch.kron(left, right)
    return tensors, deltas


def lora(model):
    tensors, deltas = {}, {}
    for seed, name in enumerate(LAYERS):
        down, up = pair(*weight_of(model, name).shape, seed)
        tensors |= {f"{kohya(name)}.lora_down.weight": down, f"{kohya(name)}.lora_up.weight": up}
        tensors[f"{kohya(name)}.alpha"] = torch.tensor(ALPHA)
        deltas[name] = ALPHA / 3 * up @ down
    return tensors, deltas


def dora(model, kind: str, of_rows: bool):
    """What a kind gives, its weights brought to random lengths by hand."""
    made = {"LoRA": lora, "LoHa": lambda m: loha(m, 3), "LoKr": lambda m: lokr(m, "whole")}
    tensors, deltas = made[kind](model)
    for seed, name in enumerate(LAYERS):
        weight = weight_of(model, name)
        axis = 1 if of_rows else 0
        lengths = (weight + deltas[name]).norm(dim=axis, keepdim=True)
        magnitude = lengths * (1 + random(*lengths.shape, seed=seed, size=0.2))
        tensors[f"{kohya(name)}.dora_scale"] = magnitude
        deltas[name] = (weight + deltas[name]) * magnitude / lengths - weight
    return tensors, deltas


MADE = {
    "LoHa": lambda model: loha(model, 3),
    "LoHa of many columns": lambda model: loha(model, 9),
    "LoKr": lambda model: lokr(model, "whole"),
    "LoKr of a product": lambda model: lokr(model, "a product"),
    "DoRA of rows": lambda model: dora(model, "LoRA", True),
    "DoRA of columns": lambda model: dora(model, "LoRA", False),
    "DoRA on LoHa": lambda model: dora(model, "LoHa", True),
    "DoRA on LoKr, of columns": lambda model: dora(model, "LoKr", False),
}


def merged(model, deltas, strength: float = 1.0):
    """A copy of the model with deltas of BFL's layers added to its weights, by hand."""
    copy = flux()
    copy.load_state_dict(model.state_dict())
    for name, delta in deltas.items():
        rows = torch.cat(delta.chunk(2)[::-1]) if name.startswith("final_layer") else delta
        layers = [copy.get_submodule(layer) for layer in LAYERS[name]]
        parts = rows.split([layer.out_features for layer in layers])
        for layer, part in zip(layers, parts, strict=True):
            layer.weight.data = layer.weight.data + strength * part
    return copy


@pytest.mark.parametrize("kind", MADE)
def test_every_form_equals_merged_weights(model, tmp_path, kind):
    tensors, deltas = MADE[kind](model)
    changes = products_of(write(tmp_path / "l.safetensors", tensors), model)
    before = velocity(model)
    for strength in (1.0, 0.4):
        with attach_loras(model, [(changes, strength)], torch.float32, "cpu"):
            ours = velocity(model)
        truth = velocity(merged(model, deltas, strength))
        assert relative(ours, truth) < 5e-6
        assert relative(before, truth) > 0.001
    assert torch.equal(velocity(model), before)


def test_several_on_one_layer_each_see_the_layer_as_it_is(model, tmp_path):
    both, total = [], {}
    for number, kind in enumerate(("DoRA of columns", "LoKr", "DoRA of rows")):
        tensors, deltas = MADE[kind](model)
        both.append((products_of(write(tmp_path / f"{number}.safetensors", tensors), model), 0.5))
        for name, delta in deltas.items():
            total[name] = total.get(name, 0) + 0.5 * delta
    plain, deltas = lora(model)
    both.append((products_of(write(tmp_path / "plain.safetensors", plain), model), -1.0))
    total = {name: delta - deltas[name] for name, delta in total.items()}
    with attach_loras(model, both, torch.float32, "cpu"):
        assert relative(velocity(model), velocity(merged(model, total))) < 5e-6


def test_what_each_form_keeps(model, tmp_path):
    """None of them keeps a matrix of the layer's size."""
    kinds = {}
    for kind, make in MADE.items():
        path = write(tmp_path / "l.safetensors", make(model)[0])
        change = products_of(path, model)["transformer_blocks.1.attn.to_k"]
        assert change.shape == (256, 256)
        assert change.numbers < 256 * 256 // 2
        kinds[kind] = type(change)
    assert kinds["LoHa"] is Product
    assert MAX_COLUMNS < 9 * 9
    assert kinds["LoHa of many columns"] is Hadamard
    assert kinds["LoKr"] is Kronecker
    assert kinds["DoRA on LoHa"] is Decomposed


@pytest.mark.parametrize("stored", ["Q8_0", "fp8"])
@pytest.mark.parametrize("kind", ["LoKr", "DoRA of rows", "DoRA of columns"])
def test_packed_weights_get_them_as_plain_ones_do(tmp_path, stored, kind):
    """The truth is made of what the packed numbers are."""
    packed, plain = flux(), flux()
    weights = {}
    for layer in (layer for layers in LAYERS.values() for layer in layers):
        numbers = packed.get_submodule(layer).weight.detach()
        weight: QuantizedWeight | Fp8Weight = Fp8Weight(
            (numbers / 0.01).to(torch.float8_e4m3fn), torch.tensor(0.01)
        )
        if stored == "Q8_0":
            q8 = gguf.GGMLQuantizationType.Q8_0
            weight = QuantizedWeight(torch.from_numpy(gguf.quantize(numbers.numpy(), q8)), q8)
        weights[f"{layer}.weight"] = weight
        plain.get_submodule(layer).weight.data = weight.dequantize(torch.float32).clone()
    biases = {name: packed.get_submodule(name.removesuffix(".weight")).bias for name in weights}
    keep_packed(packed, weights)
    for name, bias in biases.items():
        packed.get_submodule(name.removesuffix(".weight")).bias = bias
    tensors, deltas = MADE[kind](plain)
    changes = products_of(write(tmp_path / "l.safetensors", tensors), packed)
    before, truth = velocity(packed), velocity(merged(plain, deltas))
    with attach_loras(packed, [(changes, 1.0)], torch.float32, "cpu"):
        assert relative(velocity(packed), truth) < 5e-6
    assert relative(before, truth) > 0.01
    assert torch.equal(velocity(packed), before)


@pytest.mark.parametrize("kind", ["LoKr", "DoRA of rows", "DoRA of columns"])
def test_products_in_fp8_get_them_to_their_rounding(model, tmp_path, kind):
    ours, deltas = merged(model, {}), MADE[kind](model)[1]
    changes = products_of(write(tmp_path / "l.safetensors", MADE[kind](model)[0]), model)
    truth = velocity(merged(model, deltas))
    assert use_fp8_products(ours, torch.device("cpu"), multiplies_in_fp8)
    before = velocity(ours)
    with attach_loras(ours, [(changes, 1.0)], torch.float32, "cpu"):
        after = velocity(ours)
    assert relative(after, truth) < relative(before, truth) / 2
    assert torch.equal(velocity(ours), before)


@pytest.mark.parametrize("kind", ["LoKr", "DoRA of columns"])
def test_sixteen_bits_that_are_widened_while_they_run(model, tmp_path, kind):
    from pulid_generate.packed.widening import widen_while_running

    truth = merged(model, {}).bfloat16().float()
    ours = widen_while_running(merged(model, {}).bfloat16())
    changes = products_of(write(tmp_path / "l.safetensors", MADE[kind](truth)[0]), truth)
    with attach_loras(truth, [(changes, 1.0)], torch.float32, "cpu"):
        expected = velocity(truth)
    with attach_loras(ours, [(changes, 1.0)], torch.float32, "cpu"):
        assert torch.equal(velocity(ours), expected)


def test_biases_of_peft_and_of_comfyui(tmp_path):
    """lora_B.bias is scaled as the matrices are, diff_b is not."""
    layer = nn.Sequential(nn.Linear(8, 6))
    x = random(2, 8, seed=3, size=1)
    down, up = pair(6, 8, 1)
    scaled, plain = random(6, seed=5, size=1), random(6, seed=6, size=1)
    name = "transformer.transformer_blocks.0.attn.to_q"
    path = write(
        tmp_path / "l.safetensors",
        {
            f"{name}.lora_A.weight": down,
            f"{name}.lora_B.weight": up,
            f"{name}.lora_B.bias": scaled,
            f"{name}.diff_b": plain,
            f"{name}.alpha": torch.tensor(6.0),
        },
    )
    change = read_lora(path).products[Model.FLUX]["transformer_blocks.0.attn.to_q"]
    assert isinstance(change, Biased)
    truth = layer(x) + 0.5 * (x @ (2 * up @ down).T + 2 * scaled + plain)
    with attach_loras(layer, [({"0": change}, 0.5)], torch.float32, "cpu"):
        assert relative(layer(x).detach(), truth.detach()) < 1e-6


def diffsynth(name: str) -> str:
    return {
        "double_blocks.1.img_attn.qkv": "blocks.1.attn.a_to_qkv",
        "double_blocks.0.txt_mlp.2": "blocks.0.ff_b.2",
        "single_blocks.1.linear1": "single_blocks.1.to_qkv_mlp",
    }.get(name, name)


@pytest.mark.parametrize(
    ("spell", "leaves"),
    [
        (lambda name: kohya(name) + "_", ("lora_down.weight", "lora_up.weight")),
        (
            lambda name: kohya(name).replace("unet_", "unet_model_diffusion_model_"),
            ("lora_down.weight", "lora_up.weight"),
        ),
        (lambda name: name, ("lora_A.default_0.weight", "lora_B.default_0.weight")),
        (lambda name: f"base_model.model.{name}", ("lora_A.me-1.weight", "lora_B.me-1.weight")),
        (diffsynth, ("lora_A.default.weight", "lora_B.default.weight")),
    ],
    ids=["underscore left", "extracted", "peft's default_0", "peft's own name", "DiffSynth"],
)
@pytest.mark.parametrize("convolution", [False, True])
def test_spellings(model, tmp_path, spell, leaves, convolution):
    """Of the same file, also stored as convolutions of one pixel."""
    tensors, known = lora(model)
    renamed = {}
    for name in LAYERS:
        scale = ALPHA / 3
        for leaf, theirs in zip(("lora_down.weight", "lora_up.weight"), leaves, strict=True):
            tensor = tensors[f"{kohya(name)}.{leaf}"] * (scale if "up" in leaf else 1)
            renamed[f"{spell(name)}.{theirs}"] = tensor[..., None, None] if convolution else tensor
    changes = products_of(write(tmp_path / "l.safetensors", renamed), model)
    expected = products_of(write(tmp_path / "k.safetensors", tensors), model)
    assert changes.keys() == expected.keys()
    assert len(known) == len(LAYERS)
    for layer, change in changes.items():
        assert relative(change.dense(), expected[layer].dense()) < 1e-6
