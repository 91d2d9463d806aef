"""Which of Flux's layers multiply in 8-bit floating point with --compute fp8, and which keep 16
bits.

Knows names, of Black Forest Labs' files and of diffusers' model. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# the sides of a matrix that a card multiplies in fp8 are multiples of this
SIDE = 16
# of a repeated block, in either naming
BLOCK = re.compile(r"(?:double_blocks|single_blocks|transformer_blocks)\.\d+\.")
# What a layer that keeps 16 bits is called, and why it keeps them. Whatever is outside the blocks
# keeps them as well, by the first four rows.
KEPT = {
    r"x_embedder|img_in": "the latent enters here, and every error in it is carried by all blocks",
    r"context_embedder|txt_in": "as the latent, for the text; it runs once a step",
    r"proj_out|final_layer\.linear": "the velocity itself; 64 numbers of each token",
    r"time_text_embed|norm_out|(time|vector|guidance)_in|final_layer": (
        "one token each: no time to win, and they scale every channel"
    ),
    r"norm1\.linear|norm1_context\.linear|norm\.linear|(img_|txt_)?mod(ulation)?\.lin": (
        "one token each: no time to win, and they scale every channel"
    ),
}
_KEPT_IN_BLOCKS = re.compile(rf"(?:^|\.)(?:{[*KEPT][-1]})$")


def multiplies_in_fp8(layer: str, shape: Sequence[int]) -> bool:
    """Whether a layer does. layer: its name, with or without a file's prefix; shape: its
    matrix's.
    """
    block = BLOCK.search(layer)
    if block is None or len(shape) != 2 or any(side % SIDE for side in shape):
        return False
    return _KEPT_IN_BLOCKS.search(layer) is None
