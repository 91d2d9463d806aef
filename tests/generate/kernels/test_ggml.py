"""Kernels that widen ggml's types, against the torch code bit for bit."""

from __future__ import annotations

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from support.bits import DTYPES, same_bits
from torch import Tensor

from pulid_generate.packed import ggml_blocks

ggml = pytest.importorskip("pulid_generate.kernels.ggml")
products = pytest.importorskip("pulid_generate.kernels.products")
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::RuntimeWarning"
    ),  # numpy's, of infinities among the numbers
]

KINDS = sorted(ggml_blocks.FILL)
# Bytes at which a block holds a float16
HALVES = {
    Kind.Q4_0: (0,),
    Kind.Q4_1: (0, 2),
    Kind.Q5_0: (0,),
    Kind.Q5_1: (0, 2),
    Kind.Q8_0: (0,),
    Kind.Q2_K: (80, 82),
    Kind.Q3_K: (108,),
    Kind.Q4_K: (0, 2),
    Kind.Q5_K: (0, 2),
    Kind.Q6_K: (208,),
}


def some_bytes(kind: Kind, rows: int, blocks: int) -> Tensor:
    """uint8 (rows, bytes of `blocks` blocks): any bytes, with scales as any float16 can be."""
    generator = torch.Generator().manual_seed(10 * rows + blocks)
    size = gguf.GGML_QUANT_SIZES[kind][1]
    return torch.randint(0, 256, (rows, blocks * size), dtype=torch.uint8, generator=generator)


def usual_bytes(kind: Kind, rows: int, blocks: int) -> Tensor:
    """The same with scales around 0.01, so that sums of numbers are finite."""
    data = some_bytes(kind, rows, blocks)
    generator = torch.Generator().manual_seed(1)
    of_block = data.view(rows * blocks, -1)
    for start in HALVES[kind]:
        scales = torch.randn(rows * blocks, 1, generator=generator).mul(0.01).half()
        of_block[:, start : start + 2] = scales.view(torch.uint8)
    return data


def in_torch(data: Tensor, kind: Kind, dtype: torch.dtype) -> Tensor:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = torch.empty(data.shape[0], data.shape[1] // size * block)
    ggml_blocks.fill(data, kind, out)
    return out.to(dtype)


def test_types_are_those_of_the_torch_code():
    expected = {int(kind): gguf.GGML_QUANT_SIZES[kind] for kind in ggml_blocks.FILL}
    found = {kind: (layout.numbers, layout.size) for kind, layout in ggml.GGML_TYPES.items()}
    assert found == expected


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_widened_bits(kernel_device, kind, dtype):
    for data in (some_bytes(kind, 5, 3), usual_bytes(kind, 3, 1), usual_bytes(kind, 37, 2)):
        found = ggml.widen_ggml(data.to(kernel_device), int(kind), dtype)
        assert same_bits(found, in_torch(data, kind, dtype))


def test_a_comparison_can_fail(kernel_device):
    data = usual_bytes(Kind.Q4_K, 2, 1)
    expected = in_torch(data, Kind.Q4_K, torch.bfloat16)
    data[1, 100] ^= 16
    found = ggml.widen_ggml(data.to(kernel_device), int(Kind.Q4_K), torch.bfloat16)
    assert not same_bits(found, expected)
    assert same_bits(found[:1], expected[:1])


def test_part_of_a_matrix(kernel_device):
    """Rows from the middle begin at any even address."""
    data = usual_bytes(Kind.Q6_K, 7, 1)
    found = ggml.widen_ggml(data.to(kernel_device)[3:6], int(Kind.Q6_K), torch.float16)
    assert same_bits(found, in_torch(data[3:6], Kind.Q6_K, torch.float16))


def test_no_rows(kernel_device):
    data = torch.empty(0, 288, dtype=torch.uint8, device=kernel_device)
    assert ggml.widen_ggml(data, int(Kind.Q4_K), torch.float16).shape == (0, 512)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_product_is_exact(kind, monkeypatch):
    """What ggml.py's docstring says: but for the last addition, float32 rounds nothing.

    So float64 arithmetic, rounded once, gives the same numbers, and so does a fused multiplication.
    """
    data = usual_bytes(kind, 64, 2)
    data[:32] = torch.where(data[:32] > 127, 255, 0)  # largest quants and scales
    for start in HALVES[kind]:
        data[:32].view(64, -1)[:, start : start + 2] = 0x2B  # a scale with many bits
    block, size = gguf.GGML_QUANT_SIZES[kind]
    expected = torch.empty(64, 2 * block, dtype=torch.float64)
    half = ggml_blocks._half
    with monkeypatch.context() as patch:
        patch.setattr(ggml_blocks, "_half", lambda *arguments: half(*arguments).double())
        ggml_blocks.FILL[kind](data.view(-1, size), expected.view(-1, block))
    assert torch.equal(in_torch(data, kind, torch.float32), expected.float())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q5_1, Kind.Q4_K, Kind.Q6_K], ids=lambda k: k.name)
def test_product(kernel_device, kind, dtype):
    """A row of an odd number of blocks, an odd number of rows, with and without a bias."""
    block = gguf.GGML_QUANT_SIZES[kind][0]
    data = usual_bytes(kind, 7, 3)
    weight = in_torch(data, kind, dtype).double()
    generator = torch.Generator().manual_seed(2)
    bias = torch.randn(7, generator=generator)
    for shape, of_layer in (((), None), ((1,), bias), ((1, 1), bias.to(dtype))):
        x = torch.randn(*shape, 3 * block, generator=generator).to(dtype)
        expected = x.double() @ weight.T
        if of_layer is not None:
            expected += of_layer.double()
            of_layer = of_layer.to(kernel_device)
        found = products.multiply_ggml(
            x.to(kernel_device), data.to(kernel_device), int(kind), of_layer
        )
        assert found.dtype == dtype
        assert found.shape == expected.shape
        tolerance = {torch.float32: 2**-20, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
        limit = tolerance * expected.abs() + 2**-20 * (x.double().abs() @ weight.T.abs())
        assert ((found.cpu().double() - expected).abs() <= limit).all()


def test_product_is_of_one_token(kernel_device):
    x, data = torch.ones(products.MOST_TOKENS + 1, 32), usual_bytes(Kind.Q8_0, 2, 1)
    with pytest.raises(ValueError, match="at most"):
        products.multiply_ggml(x.to(kernel_device), data.to(kernel_device), int(Kind.Q8_0))
