"""What counts as equal bits."""

import torch
from torch import Tensor

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def same_bits(found: Tensor, expected: Tensor) -> bool:
    """NaN equals NaN; 0 and -0 differ."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    found, nan = found.cpu(), expected.isnan()
    integers = torch.int32 if found.dtype == torch.float32 else torch.int16
    bits = [torch.where(nan, 0.0, x).view(integers) for x in (found, expected)]
    return torch.equal(found.isnan(), nan) and torch.equal(*bits)
