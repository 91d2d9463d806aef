"""How many bytes a model and its forward take: from headers and sizes alone. Pure numbers; imports
no torch.

Weights are counted tensor by tensor from the file's header. Activations are formulas whose
constants were measured: the peak of live tensors (running sum of torch.profiler's memory events) of
seeded models of several widths and sizes on a CPU, in float32 and bfloat16, torch 2.15 and
diffusers 0.42.1. Each constant says what came out; the tests measure two of them again. Attention
scores are left out where torch's scaled_dot_product_attention does not store them.

Shapes: L image tokens, T text tokens, N tokens of an identity, D hidden width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pulid_extract.shared.model_files import Header
from pulid_generate.files.fp8_layers import multiplies_in_fp8
from pulid_generate.files.layouts import HEAD_WIDTH, LATENT_SCALE, T5_TABLES, TINY_MARKER
from pulid_generate.files.model import Model
from pulid_generate.files.storage import FLOAT_BYTES, Marker, part_of, stays_packed, stored_bytes

GIB = 2**30
# a tensor of a repeated block: the list's name and the block's number
BLOCK = re.compile(r"(?:^|\.)((?:\w*blocks|block|blk|layers))\.([0-9]{1,3})\.")

# 13.4 numbers at most per token and channel in float32 (D 256 to 1024, 384 to 2560 tokens): a
# single block's query, key, value, MLP and its activation, their concatenation and two residuals.
# 16 bits: 17.00, for the rotation widens one of them to float32.
FLUX_NUMBERS = {4: 13.5, 2: 17.0}
# per token, any width: cosines and sines, 2 x 128 float32
FLUX_ROPE_BYTES = 1024
# The finest level of the decoder works on 2 x the channels of its last convolution: 3.75 to 3.82
# such maps in float32, 4.00 in bfloat16.
DECODE_MAPS, ENCODE_MAPS = 5.0, 2.5
# Tiles that wait to be blended, and the picture: 27 to 32 bytes per pixel measured, 48 + 12 if
# every tile overlaps by half on all sides
TILED_BYTES = 60
# T5 at 128 to 512 tokens, 4 and 8 heads: 2.9 float32 score matrices (bias, scores, softmax) and 2.6
# float32 feed-forward maps
T5_SCORES, T5_MAPS = 3.0, 3.0
# of T5-XXL, where the header does not tell
T5_HEADS, T5_FORWARD = 64, 10240
# 77 tokens: a few megabytes at any published width
CLIP_ACTIVATIONS = 16 * 2**20
# per number of a PuLID layer: float64 copies of its two largest matrices, one layer at a time
FOLDING_BYTES = 6
# of the last convolution, where the header does not tell: Flux's autoencoder
DECODER_CHANNELS = 128


@dataclass(frozen=True)
class Footprint:
    """The tensors of one model, and what they take in memory."""

    # name -> (type as the file spells it, shape)
    tensors: Mapping[str, tuple[str, tuple[int, ...]]] = field(repr=False)

    @classmethod
    def of(cls, header: Header, marker: Marker) -> Footprint:
        """Of a file that holds several models, the one that `marker` belongs to."""
        return cls(part_of(header, marker).tensors)

    @cached_property
    def numbers(self) -> int:
        """How many numbers the model holds."""
        return sum(math.prod(shape) for _, shape in self.tensors.values())

    @cached_property
    def largest(self) -> int:
        """Numbers of the largest matrix, embeddings aside (only a few of their rows are
        widened).
        """
        largest = 0
        for name, (_, shape) in self.tensors.items():
            if len(shape) == 2 and not _is_embedding(name):
                largest = max(largest, math.prod(shape))
        return largest

    def shape(self, *names: str) -> tuple[int, ...]:
        """Of the first of these tensors that there is; () without any."""
        for name in names:
            if name in self.tensors:
                return self.tensors[name][1]
        return ()

    def bytes(self, width: int | None, dequantize: bool = False) -> int:
        """In memory: plain tensors in numbers of `width` bytes (None: as stored), fp8 and ggml
        matrices as stored unless `dequantize`.
        """
        return sum(
            _bytes(name, kind, shape, width, dequantize)
            for name, (kind, shape) in self.tensors.items()
        )

    def in_fp8(self) -> Footprint:
        """A Flux whose layers multiply in 8-bit floating point: matrices of a byte a number, and a
        float32 scale for each row. Their activations, a byte a number as well, are less than the
        matrix that a packed model is expected to widen.
        """
        tensors = {}
        for name, (kind, shape) in self.tensors.items():
            layer, _, leaf = name.rpartition(".")
            if leaf == "weight" and multiplies_in_fp8(layer, shape):
                tensors[name] = ("F8_E4M3", shape)
                # four bytes a row, whatever the width of the plain numbers
                tensors[f"{layer}.row_scales.weight"] = ("F8_E4M3", (shape[0], 4))
            else:
                tensors[name] = (kind, shape)
        return Footprint(tensors)

    def has_packed(self) -> bool:
        """Whether matrices stay packed in memory, to be widened one at a time."""
        return any(stays_packed(name, kind, shape) for name, (kind, shape) in self.tensors.items())

    def widened_bytes(self, width: int) -> int:
        """Bytes of the matrices that stay packed, widened to numbers of `width` bytes: the most
        that --weight-cache can hold.
        """
        total = 0
        for name, (kind, shape) in self.tensors.items():
            if stays_packed(name, kind, shape):
                total += width * math.prod(shape)
        return total

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
    """Bytes at the peak of one forward of `tokens` = L + T in numbers of `width` bytes."""
    hidden = _first(flux.shape("img_in.weight", "x_embedder.weight"), 0)
    return int(tokens * (FLUX_NUMBERS[width] * hidden * width + FLUX_ROPE_BYTES))


def identity_bytes(pulid: Footprint, id_tokens: int, width: int) -> int:
    """Bytes of PuLID's layers made ready for one identity, in numbers of `width` bytes; folded
    below 128 tokens, as injection does.

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
    """Bytes that preparing one layer takes, where that is done."""
    numbers = 0
    for name, (_, shape) in pulid.tensors.items():
        if name.startswith("pulid_ca.0."):
            numbers += math.prod(shape)
    return FOLDING_BYTES * numbers


def t5_activations(t5: Footprint, tokens: int) -> int:
    """Bytes at the peak of T5 for one prompt of so many tokens."""
    bias = t5.shape(
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "enc.blk.0.attn_rel_b.weight",
    )
    heads = bias[1] if bias else T5_HEADS
    gate = t5.shape(
        "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", "enc.blk.0.ffn_gate.weight"
    )
    forward = _first(gate, T5_FORWARD)
    return int(4 * (T5_SCORES * heads * tokens * tokens + T5_MAPS * tokens * forward))


def decode_bytes(
    vae: Footprint, width: int, height: int, number: int, tile: tuple[int, int] | None = None
) -> int:
    """Bytes to decode width x height pixels in numbers of `number` bytes. tile: columns and rows of
    a tile in latent cells, None for the whole picture.
    """
    maps = _finest_channels(vae) * DECODE_MAPS * number
    if tile is None:
        return int(maps * width * height)
    columns = min(tile[0] * LATENT_SCALE, width)
    rows = min(tile[1] * LATENT_SCALE, height)
    return int(maps * columns * rows + TILED_BYTES * width * height)


def encode_bytes(vae: Footprint, width: int, height: int, number: int) -> int:
    """Bytes to encode a start picture of width x height pixels in numbers of `number` bytes."""
    return int(_finest_channels(vae) * ENCODE_MAPS * number * width * height)


def cacheable_bytes(flux: Header, device: str, number: int, dequantize: bool) -> int:
    """The most that --weight-cache can hold: the matrices of a GGUF that a CPU would widen again
    and again, in numbers of `number` bytes. device: its type.
    """
    if device != "cpu" or flux.format != "gguf" or dequantize:
        return 0
    return Footprint.of(flux, Model.FLUX.marker).widened_bytes(number)


def gib(count: int) -> str:
    """A number of bytes for a person."""
    return f"{count / GIB:.1f} GiB"


def _finest_channels(vae: Footprint) -> int:
    """Channels of the widest map at full size: twice those that the last convolution reads."""
    for name in TINY_MARKER:
        if tiny := vae.shape(name):
            return tiny[0]
    shape = vae.shape("decoder.conv_out.weight")
    return 2 * (shape[1] if shape else DECODER_CHANNELS)


def _first(shape: tuple[int, ...], otherwise: int) -> int:
    return shape[0] if shape else otherwise


def _bytes(
    name: str, kind: str, shape: tuple[int, ...], width: int | None, dequantize: bool
) -> int:
    count = math.prod(shape)
    if stays_packed(name, kind, shape) and not dequantize:
        return stored_bytes(kind, count)
    return count * (width or FLOAT_BYTES.get(kind, 2))


def _is_embedding(name: str) -> bool:
    return "embed" in name or name.endswith((T5_TABLES[0], "token_embd.weight"))
