"""T5: ids of a prompt -> the token states that condition Flux.

Sizes come from the tensors; what tensors cannot tell is a constant below. Knows no tokenizer, and
nothing of Flux or of pictures.

Sources: google/t5-v1_1-xxl config.json; black-forest-labs/flux src/flux/modules/conditioner.py (no
attention mask).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pulid_extract.shared.model_files import Header
from pulid_generate.errors import CheckpointError
from pulid_generate.files.layouts import T5_MARKER, T5_TABLES
from pulid_generate.files.storage import depth_of, part_of
from pulid_generate.models.tensor_files import incomplete, load_strictly, read_tensors
from pulid_generate.models.weighted_prompts import encode_chunks
from pulid_generate.networks.t5 import T5Encoder
from pulid_generate.packed.layers import PACKED, PackedEmbedding, keep_packed
from pulid_generate.request.prompts.tokens import Chunk

# llama.cpp's T5 names -> Hugging Face's. Source: llama.cpp
# gguf-py/gguf/{constants,tensor_mapping}.py, MODEL_ARCH.T5ENCODER
T5_GGUF_TOP = {"token_embd": "shared", "enc.output_norm": "encoder.final_layer_norm"}
T5_GGUF_BLOCK = {
    "attn_q": "0.SelfAttention.q",
    "attn_k": "0.SelfAttention.k",
    "attn_v": "0.SelfAttention.v",
    "attn_o": "0.SelfAttention.o",
    "attn_rel_b": "0.SelfAttention.relative_attention_bias",
    "attn_norm": "0.layer_norm",
    "ffn_gate": "1.DenseReluDense.wi_0",
    "ffn_up": "1.DenseReluDense.wi_1",
    "ffn_down": "1.DenseReluDense.wo",
    "ffn_norm": "1.layer_norm",
}


class T5Text:
    """T5's encoder."""

    def __init__(self, model: T5Encoder):
        self.model = model

    @classmethod
    def load(
        cls,
        header: Header,
        dtype: torch.dtype | None,
        device: torch.device | str = "cpu",
    ) -> T5Text:
        """From t5xxl_*.safetensors, a GGUF or a diffusers folder.

        dtype: of what is not packed; None keeps the file's 16 bits, for float32. Matrices in fp8
        and in ggml's quantised types stay as stored, the embedding too; the position bias does not.
        Raises CheckpointError.
        """
        part = part_of(header, T5_MARKER)
        twice = {T5_TABLES[1]} if T5_TABLES[0] in part.tensors else ()
        state: dict[str, Any] = {}
        for own, tensor in read_tensors(header, T5_MARKER, device, dtype, packed=True, skip=twice):
            name = t5_name(own) if part.format == "gguf" else own
            # an embedding of a few numbers
            bias = "relative_attention_bias" in name and isinstance(tensor, PACKED)
            state[name] = tensor.dequantize(dtype or torch.float32) if bias else tensor
        embedding = state.pop(T5_TABLES[0], None)
        if embedding is None:
            embedding = state.pop(T5_TABLES[1], None)
        block = "encoder.block.0.layer."
        try:
            if embedding is None:
                raise KeyError("shared.weight")
            buckets, heads = state[f"{block}0.SelfAttention.relative_attention_bias.weight"].shape
            sizes = {
                "rows": embedding.shape[0],
                "width": embedding.shape[1],
                "inner": state[f"{block}1.DenseReluDense.wi_0.weight"].shape[0],
                "depth": depth_of(state, "encoder.block"),
                "heads": heads,
                "head_width": state[f"{block}0.SelfAttention.q.weight"].shape[0] // heads,
                "buckets": buckets,
            }
        except KeyError as error:
            raise incomplete(header, error.args[0]) from None
        with torch.device("meta"):
            model = T5Encoder(**sizes)
        if isinstance(embedding, PACKED):
            model.shared = PackedEmbedding(embedding, dtype or torch.float32)
        else:
            state[T5_TABLES[0]] = embedding
        weights = {name: state.pop(name) for name in list(state) if isinstance(state[name], PACKED)}
        try:
            keep_packed(model, weights)
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{header.path}: {error}; not a complete file of its kind"
            ) from None
        load_strictly(model, state, header)
        return cls(model)

    def encode(self, ids: Tensor) -> Tensor:
        """States (1, T, width) of ids (1, T). No attention mask: Flux was trained with the padding
        attended to.
        """
        return self.model(ids.to(self.model.device))

    def encode_chunks(self, chunks: Sequence[Chunk]) -> Tensor:
        """States (1, T, width) of a prompt's chunks, T tokens in all: each run by itself, weighed
        by itself. Raises CheckpointError for ids of another vocabulary.
        """
        for chunk in chunks:
            check_ids(torch.tensor([chunk.ids]), self.model.rows, "T5")
        return encode_chunks(self.encode, chunks)


def t5_name(name: str) -> str:
    """Hugging Face's name of a tensor for llama.cpp's; any other name as it is."""
    match = re.fullmatch(r"enc\.blk\.([0-9]{1,3})\.(\w+)\.weight", name)
    if match and match[2] in T5_GGUF_BLOCK:
        return f"encoder.block.{match[1]}.layer.{T5_GGUF_BLOCK[match[2]]}.weight"
    top = T5_GGUF_TOP.get(name.removesuffix(".weight"))
    return f"{top}.weight" if top else name


def check_ids(ids: Tensor, rows: int, name: str) -> None:
    """Raise CheckpointError if an id is beyond the rows of an encoder's table. name: of the
    encoder.
    """
    if int(ids.max()) >= rows:
        raise CheckpointError(
            f"{name} tokenizer gives id {int(ids.max())}, the encoder has {rows} rows; "
            "they do not belong together"
        )
