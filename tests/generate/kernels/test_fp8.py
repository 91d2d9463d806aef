"""The kernel that widens fp8, against the torch code bit for bit."""

from __future__ import annotations

import pytest
import torch
from support.bits import DTYPES, same_bits

from pulid_generate.packed.fp8 import Fp8Weight

fp8 = pytest.importorskip("pulid_generate.kernels.fp8")
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::RuntimeWarning"
    ),  # numpy's, of infinities among the numbers
]

FORMATS = [torch.float8_e4m3fn, torch.float8_e5m2]
SCALES = {
    "none": None,
    "matrix": torch.tensor(0.0123),
    "rows": torch.tensor([[0.1], [3e-3], [1.0], [1e-30], [7.7]]),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_every_code(kernel_device, format, scale, dtype):
    """5 rows of 603 columns: more than one tile each way, and not whole ones."""
    codes = torch.arange(5 * 603).remainder(256).to(torch.uint8).view(5, 603).view(format)
    expected = Fp8Weight(codes, SCALES[scale]).dequantize(dtype)
    on_device = None if scale == "none" else SCALES[scale].to(kernel_device)
    found = fp8.widen_fp8(codes.to(kernel_device), on_device, dtype)
    assert same_bits(found, expected)


def test_a_scale_counts(kernel_device):
    codes = torch.arange(256).to(torch.uint8).view(2, 128).view(torch.float8_e4m3fn)
    expected = Fp8Weight(codes, torch.tensor([[1.0], [2.0]])).dequantize(torch.float32)
    scale = torch.tensor([[1.0], [3.0]]).to(kernel_device)
    found = fp8.widen_fp8(codes.to(kernel_device), scale, torch.float32)
    assert same_bits(found[:1], expected[:1])
    assert not same_bits(found[1:], expected[1:])


def test_refused():
    with pytest.raises(ValueError, match="float8_e4m3fn"):
        fp8.widen_fp8(torch.zeros(2, 2), None, torch.float16)
    codes = torch.zeros(2, 2, dtype=torch.uint8).view(torch.float8_e5m2)
    with pytest.raises(ValueError, match=r"scale of shape \(2,\)"):
        fp8.widen_fp8(codes, torch.ones(2), torch.float16)
