"""Widening quantised weights fast, keeping some, and multiplying them in 8-bit integers no lossier
than sd-cli does.
"""

from __future__ import annotations

import weakref

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Q
from support.distances import relative
from torch import nn

from pulid_extract.shared.cpu_linear import linear
from pulid_generate.packed import ggml
from pulid_generate.packed import ggml as layers
from pulid_generate.packed import ggml_blocks as blocks
from pulid_generate.packed.ggml import QuantizedLinear, QuantizedWeight, compute_quantized
from pulid_generate.packed.int8_products import COLUMNS, product, round_twice
from pulid_generate.packed.workspace import Workspace


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def layer_of(
    rows: int, columns: int, kind: Q = Q.Q8_0, bias: bool = True, seed: int = 0
) -> QuantizedLinear:
    weight = np.random.default_rng(seed).standard_normal((rows, columns), np.float32)
    layer = QuantizedLinear(
        QuantizedWeight(torch.from_numpy(gguf.quantize(weight, kind)), kind), bias
    )
    if bias:
        layer.bias = nn.Parameter(torch.linspace(-1, 1, rows), requires_grad=False)
    return layer


# ----------------------------------------------------------------------------------------- widening


@pytest.mark.parametrize("kind", blocks.FILL, ids=lambda kind: kind.name)
def test_every_bit_of_a_block_counts_as_in_gguf_py(kind):
    """One block, each of its bits flipped in turn: a bit read from the wrong place cannot hide
    among random numbers.
    """
    _, size = gguf.GGML_QUANT_SIZES[kind]
    block = np.random.default_rng(kind).integers(0, 256, size, np.uint8)
    flips = np.packbits(np.eye(8 * size, dtype=np.uint8), axis=1)
    data = block ^ flips
    with np.errstate(all="ignore"):
        truth = gguf.dequantize(data, kind)
    out = torch.empty(truth.shape)
    blocks.fill(torch.from_numpy(data), kind, out)
    np.testing.assert_allclose(out.numpy(), truth, rtol=1e-6, equal_nan=True)


def test_a_type_without_a_fast_form_is_still_read():
    kind = Q.IQ4_XS
    assert kind not in blocks.FILL
    block, size = gguf.GGML_QUANT_SIZES[kind]
    data = np.random.default_rng(3).integers(0, 256, (5, 2 * size), np.uint8)
    data.view(np.float16).reshape(10, -1)[:, 0] = 0.01
    out = torch.empty(5, 2 * block)
    blocks.fill(torch.from_numpy(data), kind, out)
    np.testing.assert_allclose(out.numpy(), gguf.dequantize(data, kind), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_shared_workspace_changes_no_number_and_is_reused(dtype):
    stack = nn.ModuleList(
        [layer_of(96, 64, seed=0), layer_of(640, 256, Q.Q5_0, seed=1), layer_of(32, 64, seed=2)]
    )
    inputs = [torch.randn(3, layer.in_features).to(dtype) for layer in stack]
    alone = [
        nn.functional.linear(x, layer.weight.dequantize(dtype), layer.bias.to(dtype))
        for layer, x in zip(stack, inputs, strict=True)
    ]
    assert compute_quantized(stack) == 3
    for _ in range(2):  # the second time the memory holds another layer's numbers
        shared = [layer(x) for layer, x in zip(stack, inputs, strict=True)]
        for ours, truth in zip(shared, alone, strict=True):
            assert ours.dtype == dtype
            assert relative(ours.float(), truth.float()) < (
                1e-6 if dtype == torch.float32 else 1e-2
            )
    held = stack[0].computing.workspace.nbytes()
    stack[1](inputs[1])
    assert stack[0].computing.workspace.nbytes() == held <= 640 * 256 * (dtype.itemsize + 4)


def test_layers_that_nobody_configured_share_memory_too_and_let_it_go(monkeypatch):
    # layers of other tests in this process may still hold theirs
    monkeypatch.setattr(ggml, "_default_computing", None)
    first, second = layer_of(64, 64), layer_of(64, 64)
    assert first.computing is second.computing
    assert compute_quantized(first) == 1
    assert first.computing is not second.computing
    kept = weakref.ref(second.computing)
    del second
    assert kept() is None


@pytest.mark.parametrize("compute", ["float", "int8"])
def test_kept_weights_stay_within_the_budget_and_change_no_number(compute):
    tokens = torch.randn(40, 64)
    stack = nn.ModuleList([layer_of(128, 64, seed=seed) for seed in range(3)])
    one = 128 * 64 * (4 if compute == "float" else 2)
    results = {}
    for budget, kept in ((0, 0), (one - 1, 0), (2 * one + 100, 2), (9 * one, 3)):
        compute_quantized(stack, compute, budget)
        for _ in range(2):
            results[budget] = [layer(tokens) for layer in stack]
        assert (
            sum(layer.widened is not None or layer.double_rounded is not None for layer in stack)
            == kept
        )
    for other in results.values():
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


@pytest.mark.parametrize("bias", [True, False])
def test_a_large_weight_is_multiplied_in_slices(bias, monkeypatch):
    layer, x = layer_of(300, 64, bias=bias), torch.randn(2, 9, 64)
    compute_quantized(layer)
    whole = layer(x)
    held = layer.computing.workspace.nbytes()
    compute_quantized(layer)
    monkeypatch.setattr(layers, "WHOLE_BYTES", 70 * 64 * 4)
    torch.testing.assert_close(layer(x), whole)
    assert layer.computing.workspace.nbytes() == 70 * 64 * 4 < held


def test_gradients_and_other_dtypes_still_find_the_plain_path():
    layer = layer_of(64, 64)
    compute_quantized(layer, "float", 1 << 20)
    with torch.inference_mode(False):
        x = torch.randn(2, 64, requires_grad=True)
        layer(x).sum().backward()
        assert x.grad is not None
    first = layer(torch.ones(2, 64))
    assert layer(torch.ones(2, 64).bfloat16()).dtype == torch.bfloat16
    assert torch.equal(layer(torch.ones(2, 64)), first)


@pytest.mark.parametrize("shape", [(5, 48), (2, 3, 48), (48,), (0, 48)])
def test_the_cpu_product_is_torchs(shape):
    x, weight, bias = torch.randn(shape), torch.randn(80, 48), torch.randn(80)
    for extra in (bias, None):
        truth = nn.functional.linear(x, weight, extra)
        ours = linear(x, weight, extra)
        assert ours.shape == truth.shape
        torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5)


# ----------------------------------------------------------------------------------- 8-bit integers

GAUSS, LAPLACE, HEAVY = (
    torch.distributions.Normal(0.0, 1.0),
    torch.distributions.Laplace(0.0, 1.0),
    torch.distributions.StudentT(3.0),
)
ACTIVATIONS = {
    "gauss": GAUSS.sample,
    "gelu": lambda shape: nn.functional.gelu(GAUSS.sample(shape)),
    "heavy tails": HEAVY.sample,
    "outlier channels": lambda shape: (
        GAUSS.sample(shape) * (1 + 30 * (torch.arange(shape[1]) % 331 == 7))
    ),
    "zeros": lambda shape: GAUSS.sample(shape) * (torch.arange(shape[0]) % 2)[:, None],
}


def sdcli_activations(x: torch.Tensor, block: int) -> torch.Tensor:
    """What sd-cli multiplies with instead of `x`: blocks of 256 (Q8_K, before K types) or 32 (Q8_0,
    before Q8_0) with one scale.

    ggml/src/ggml-quants.c, quantize_row_q8_K_ref (float32 scale, max / 127 up to its sign) and
    quantize_row_q8_0_ref (float16 scale).
    """
    blocks = x.double().view(len(x), -1, block)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    integers = (blocks / scale.clamp_min(1e-30)).round()
    return (integers * (scale.half().double() if block == 32 else scale)).view(x.shape)


def q4_k(rows: int, columns: int, sample) -> QuantizedWeight:
    """Q4_K bytes whose numbers are distributed like `sample`'s, by rounding to the nearest of each
    block's 16 levels.
    """
    from seeded.q4_k import quantize_q4_k

    return QuantizedWeight(torch.from_numpy(quantize_q4_k(sample((rows, columns)).numpy())), Q.Q4_K)


@pytest.mark.parametrize("weights", ["gauss", "laplace"])
@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize("kind", [Q.Q4_K, Q.Q8_0], ids=lambda kind: kind.name)
def test_8_bit_integers_are_no_lossier_than_sd_clis(kind, activations, weights):
    torch.manual_seed(5)
    sample = {"gauss": GAUSS, "laplace": LAPLACE}[weights].sample
    if kind == Q.Q4_K:
        weight = q4_k(256, 3072, sample)
    else:
        weight = QuantizedWeight(
            torch.from_numpy(gguf.quantize(sample((256, 3072)).numpy(), kind)), kind
        )
    x = ACTIVATIONS[activations]((64, 3072))
    exact = weight.dequantize(torch.float32).double()
    truth = x.double() @ exact.T
    theirs = relative(sdcli_activations(x, 256 if kind == Q.Q4_K else 32) @ exact.T, truth)
    layer = QuantizedLinear(weight, bias=False)
    compute_quantized(layer, "int8")
    ours = relative(layer(x), truth)
    assert 1e-5 < ours < theirs  # not float32 by mistake


def test_rounding_once_would_be_lossier():
    torch.manual_seed(5)
    x, weight = torch.randn(64, 3072), torch.randn(128, 3072)
    truth = x.double() @ weight.double().T
    once = [
        numbers / (scale := numbers.abs().amax(1, keepdim=True) / 127) for numbers in (x, weight)
    ]
    plain = once[0].round().double() @ once[1].round().double().T
    plain *= (x.abs().amax(1, keepdim=True) * weight.abs().amax(1) / 127**2).double()
    del scale
    assert (
        relative(plain, truth)
        > relative(sdcli_activations(x, 256) @ weight.double().T, truth)
        > 2 * product_error(x, weight, truth)
    )


def product_error(x, weight, truth) -> float:
    workspace = Workspace()
    out = torch.empty(len(weight), len(x))
    weights = round_twice(weight.clone(), "w", workspace)
    product(weights, round_twice(x.clone(), "x", workspace), out, workspace)
    return relative(out.T, truth)


@pytest.mark.parametrize("columns", [32, 96, COLUMNS, 1504, 3 * COLUMNS, 15360])
def test_any_width_multiplies_right_and_the_longest_row_does_not_overflow(columns):
    ones = torch.ones(40, columns)
    # every integer at its limit
    assert product_error(ones, ones[:7], ones.double() @ ones[:7].double().T) < 1e-6
    torch.manual_seed(1)
    x, weight = torch.randn(40, columns), torch.randn(7, columns)
    assert product_error(x, weight, x.double() @ weight.double().T) < 0.01


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_number_is_not_rounded_away(bad):
    layer = layer_of(64, 64)
    compute_quantized(layer, "int8")
    x = torch.randn(40, 64)
    assert torch.isfinite(layer(x)).all()
    x[3, 5] = bad
    assert not torch.isfinite(layer(x)[3]).any()
    assert torch.isfinite(layer(x)[4]).all()


def test_8_bit_layers_take_shapes_biases_and_few_tokens_as_others_do():
    layer = layer_of(96, 64)
    many = torch.randn(2, 20, 64)
    inputs = (many, many[0, :1], many.bfloat16())
    plain = [layer(x) for x in inputs]
    compute_quantized(layer, "int8")
    for x, truth in zip(inputs, plain, strict=True):
        ours = layer(x)
        assert (ours.shape, ours.dtype) == (truth.shape, truth.dtype)
        assert relative(ours.float(), truth.float()) < 0.01
    assert torch.allclose(layer(inputs[1]), plain[1], atol=1e-5)  # one token: in float32
    assert relative(layer(many), plain[0]) > 1e-5
