"""How many bytes a model and its forward take: from headers and sizes alone. Pure numbers; imports
no torch.

Weights are counted tensor by tensor from the file's header. Activations are formulas whose
constants were measured: the peak of live tensors (running sum of torch.profiler's memory events) of
seeded models of several widths and sizes on a CPU, in float32 and bfloat16, torch 2.15 and
diffusers 0.42.1. Each constant says what came out; tests/generate/memory/test_plan.py measures two of them
again. Attention scores are left out where torch's scaled_dot_product_attention does not store them.

Shapes: L image tokens, T text tokens, N tokens of an identity, D hidden width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pulid_extract.shared.model_files import Header, parts_of
from pulid_generate.files.layouts import HEAD_WIDTH, MARKERS
from pulid_generate.files.storage import FLOAT_BYTES, stays_packed, stored_bytes

BLOCK = re.compile(r"(?:^|\.)((?:\w*blocks|block|blk|layers))\.(\d+)\.")

TOKEN_PIXELS, LATENT_PIXELS = 16, 8  # pixels per image token and per latent cell, of a side

# 15.00 numbers per token and channel in float32 (D 256 to 1024, 384 to 2560 tokens): a single
# block's query, key, value, MLP and its activation, their concatenation and two residuals. 16 bits:
# 17.00, for the rotation widens one of them to float32.
FLUX_NUMBERS = {4: 15.0, 2: 17.0}
FLUX_ROPE_BYTES = 1024  # per token, any width: cosines and sines, 2 x 128 float32
# The finest level of the decoder works on 2 x the channels of its last convolution: 3.75 to 3.82
# such maps in float32, 4.00 in bfloat16.
DECODE_MAPS, ENCODE_MAPS = 5.0, 2.5
# Tiles that wait to be blended, and the picture: 27 to 32 bytes per pixel measured, 48 + 12 if
# every tile overlaps by half on all sides
TILED_BYTES = 60
# T5 at 128 to 512 tokens, 4 and 8 heads: 2.9 float32 score matrices (bias, scores, softmax) and 2.6
# float32 feed-forward maps
T5_SCORES, T5_MAPS = 3.0, 3.0
CLIP_ACTIVATIONS = 16 * 2**20  # 77 tokens: a few megabytes at any published width
FOLDING_BYTES = (
    # float64 copies of PuLID's two largest matrices of a layer, in units of their 16-bit bytes; one
    # layer at a time
    6
)


@dataclass(frozen=True)
class Footprint:
    """The tensors of one model: name -> (type as the file spells it, shape)."""

    tensors: Mapping[str, tuple[str, tuple[int, ...]]] = field(repr=False)

    @classmethod
    def of(cls, header: Header, model: str) -> Footprint:
        """model: a key of MARKERS. Of a file that holds several models, that one."""
        for part in parts_of(header).values():
            if part.names & set(MARKERS[model]):
                return cls(part.tensors)
        return cls(header.tensors)

    @cached_property
    def numbers(self) -> int:
        return sum(math.prod(shape) for _, shape in self.tensors.values())

    @cached_property
    def largest(self) -> int:
        """Numbers of the largest matrix, embeddings aside (only a few of their rows are
        widened).
        """
        sizes = [
            math.prod(shape)
            for name, (_, shape) in self.tensors.items()
            if len(shape) == 2 and not _is_table(name)
        ]
        return max(sizes, default=0)

    def shape(self, *names: str) -> tuple[int, ...]:
        """Of the first of these tensors that there is; () without any."""
        return next((self.tensors[name][1] for name in names if name in self.tensors), ())

    def bytes(self, width: int | None, dequantize: bool = False) -> int:
        """In memory: plain tensors in numbers of `width` bytes (None: as stored), fp8 and ggml
        matrices as stored unless `dequantize`.
        """
        return sum(
            _bytes(name, kind, shape, width, dequantize)
            for name, (kind, shape) in self.tensors.items()
        )

    def has_packed(self) -> bool:
        """Whether matrices stay packed in memory, to be widened one at a time."""
        return any(stays_packed(name, kind, shape) for name, (kind, shape) in self.tensors.items())

    def block_bytes(self, width: int | None, dequantize: bool = False) -> list[int]:
        """Bytes of each repeated block, in the order they run (Flux: double blocks, then single
        blocks).
        """
        blocks: dict[tuple[bool, str, int], int] = {}
        for name, (kind, shape) in self.tensors.items():
            match = BLOCK.search(name)
            if match:
                key = ("single" in match[1], match[1], int(match[2]))
                blocks[key] = blocks.get(key, 0) + _bytes(name, kind, shape, width, dequantize)
        return [blocks[key] for key in sorted(blocks)]


def flux_activations(flux: Footprint, tokens: int, width: int) -> int:
    """Peak of one forward of `tokens` = L + T in numbers of `width` bytes."""
    hidden = (flux.shape("img_in.weight", "x_embedder.weight") or (0,))[0]
    return int(tokens * (FLUX_NUMBERS[width] * hidden * width + FLUX_ROPE_BYTES))


def identity_bytes(pulid: Footprint, id_tokens: int, width: int) -> int:
    """PuLID's layers made ready for one identity; folded below 128 tokens, as injection does.

    What a layer takes while it runs (1.3 to 2.3 maps of the image tokens) is less than a block of
    Flux takes, and comes after it.
    """
    inner, hidden = pulid.shape("pulid_ca.0.to_q.weight") or (0, 0)
    layers = sum(
        name.startswith("pulid_ca.") and name.endswith(".to_q.weight") for name in pulid.tensors
    )
    rows = inner // HEAD_WIDTH * id_tokens
    folded = 2 * rows * hidden * width + 4 * rows
    plain = (2 * inner * hidden + 2 * id_tokens * inner) * width
    return layers * (folded if id_tokens < HEAD_WIDTH else plain)


def folding_bytes(pulid: Footprint) -> int:
    """Main memory that preparing one layer takes."""
    return FOLDING_BYTES * sum(
        math.prod(shape)
        for name, (_, shape) in pulid.tensors.items()
        if name.startswith("pulid_ca.0.")
    )


def t5_activations(t5: Footprint, tokens: int) -> int:
    """One prompt of `tokens`."""
    heads = (
        t5.shape(
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            "enc.blk.0.attn_rel_b.weight",
        )
        or (0, 64)
    )[1]
    forward = (
        t5.shape("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", "enc.blk.0.ffn_gate.weight")
        or (10240,)
    )[0]
    return int(4 * (T5_SCORES * heads * tokens * tokens + T5_MAPS * tokens * forward))


def decode_bytes(
    vae: Footprint, width: int, height: int, number: int, tile: tuple[int, int] | None = None
) -> int:
    """Decoding width x height pixels in numbers of `number` bytes. tile: columns and rows of a tile
    in latent cells.
    """
    maps = _finest(vae) * DECODE_MAPS * number
    if tile is None:
        return int(maps * width * height)
    columns, rows = (
        min(side * LATENT_PIXELS, full) for side, full in zip(tile, (width, height), strict=True)
    )
    return int(maps * columns * rows + TILED_BYTES * width * height)


def encode_bytes(vae: Footprint, width: int, height: int, number: int) -> int:
    """Encoding a start picture."""
    return int(_finest(vae) * ENCODE_MAPS * number * width * height)


def _finest(vae: Footprint) -> int:
    """Channels of the widest map at full size: twice those that the last convolution reads."""
    return 2 * (vae.shape("decoder.conv_out.weight") or (3, 128))[1]


def _bytes(
    name: str, kind: str, shape: tuple[int, ...], width: int | None, dequantize: bool
) -> int:
    count = math.prod(shape)
    if stays_packed(name, kind, shape) and not dequantize:
        return stored_bytes(kind, count)
    return count * (width or FLOAT_BYTES.get(kind, 2))


def _is_table(name: str) -> bool:
    return "embed" in name or name.endswith(("shared.weight", "token_embd.weight"))
