"""Rows to 8-bit floating point: the kernel against torch, and for cards."""

from __future__ import annotations

import pytest
import torch
from support.bits import DTYPES

from pulid_generate.packed import fp8_products

fp8_rows = pytest.importorskip("pulid_generate.kernels.fp8_rows")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_are_torchs(kernel_device, dtype):
    """A row of zeros, of one number, a NaN in one; a block of columns and a bit."""
    x = torch.randn(6, 1030, generator=torch.Generator().manual_seed(1)) * 3
    x[1] = 0
    x[2] = 1e-3
    x[4, 7] = float("nan")
    x = x.to(dtype)
    numbers, scales = fp8_rows.quantize_rows(x.to(kernel_device))
    expected, expected_scales = fp8_products._quantize_rows(x)
    assert numbers.dtype == torch.float8_e4m3fn
    finite = [0, 1, 2, 3, 5]
    assert torch.allclose(scales.cpu()[finite], expected_scales[finite], rtol=1e-6, atol=0)
    # a division that rounds the other way may move a number to its neighbour
    found, right = numbers.cpu().float()[finite], expected.float()[finite]
    assert (found != right).float().mean() < 1e-3
    assert ((found - right).abs() <= right.abs() / 8 + 2**-9).all()
    assert numbers.cpu().float()[4, 7].isnan()
    assert float(numbers.cpu().float()[0].abs().max()) == 448
