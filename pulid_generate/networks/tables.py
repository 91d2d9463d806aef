"""Tables of vectors by number, whose rows come from a file. Knows nothing of tokens."""

from __future__ import annotations

import torch
from torch import nn


def empty_table(rows: int, width: int) -> nn.Embedding:
    """A table (rows, width) without values, for weights that are loaded into it.

    nn.Embedding would draw normal numbers, which on the device "meta" makes torch import its
    compiler: 1.6 s of every start.
    """
    return nn.Embedding.from_pretrained(torch.empty(rows, width))
