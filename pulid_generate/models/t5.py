"""CLIP-L and T5: a prompt -> the pooled vector and the token states that condition Flux.

Sizes come from the tensors; what tensors cannot tell is a constant below. Knows nothing of Flux or
of pictures.

Sources: openai/clip-vit-large-patch14 and google/t5-v1_1-xxl config.json; black-forest-labs/flux
src/flux/modules/conditioner.py (lengths, padding, no attention mask).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pulid_extract.shared.model_files import Header
from pulid_generate.errors import CheckpointError, RequestError
from pulid_generate.files.layouts import T5_LONGEST, T5_MARKER, T5_TABLES
from pulid_generate.files.storage import depth_of, part_of
from pulid_generate.models.tensor_files import load_strictly, read_tensors
from pulid_generate.models.tokenizers import read_t5_tokenizer
from pulid_generate.models.weighted_prompts import encode_chunks, t5_chunks, t5_weighted
from pulid_generate.packed.layers import PACKED, PackedEmbedding, keep_packed
from pulid_generate.request.prompt import parse_weights

T5_PAD = 0
T5_MAX_DISTANCE = 128  # relative_attention_max_distance of every T5

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

Note = Callable[[str], None]


class T5Text:
    """T5's encoder and its tokenizer."""

    @property
    def whole(self) -> tuple[type, ...]:
        """Classes to widen as one unit: this one looks at wo's dtype before it runs wo, and would
        cut activations to 16 bits.
        """
        from transformers.models.t5.modeling_t5 import T5DenseGatedActDense

        return (T5DenseGatedActDense,)

    def __init__(self, model: Any, tokenizer: Any):
        self.model, self.tokenizer = model, tokenizer

    @classmethod
    def load(
        cls,
        header: Header,
        tokenizer: Any,
        dtype: torch.dtype | None,
        device: torch.device | str = "cpu",
    ) -> T5Text:
        """From t5xxl_*.safetensors, a GGUF or a diffusers folder.

        tokenizer: what read_t5_tokenizer takes, or gave. dtype: of what is not packed; None keeps
        the file's 16 bits, for float32. Matrices in fp8 and in ggml's quantised types stay as
        stored, the embedding too; the position bias does not. Raises CheckpointError.
        """
        from transformers import T5Config, T5EncoderModel

        # first: it is quick
        words = read_t5_tokenizer(tokenizer) if isinstance(tokenizer, Path) else tokenizer
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
            config = T5Config(
                vocab_size=embedding.shape[0],
                d_model=embedding.shape[1],
                d_ff=state[f"{block}1.DenseReluDense.wi_0.weight"].shape[0],
                num_layers=depth_of(state, "encoder.block"),
                num_heads=heads,
                d_kv=state[f"{block}0.SelfAttention.q.weight"].shape[0] // heads,
                feed_forward_proj="gated-gelu",
                relative_attention_num_buckets=buckets,
                relative_attention_max_distance=T5_MAX_DISTANCE,
                layer_norm_epsilon=1e-6,
                is_encoder_decoder=False,
                use_cache=False,
            )
        except KeyError as error:
            raise CheckpointError(
                f"{header.path}: missing {error.args[0]}; the file is incomplete, download it again"
            ) from None
        with torch.device("meta"):
            model: Any = T5EncoderModel(config)
        if isinstance(embedding, PACKED):
            model.shared = model.encoder.embed_tokens = PackedEmbedding(
                embedding, dtype or torch.float32
            )
        else:
            state |= dict.fromkeys(T5_TABLES, embedding)
        weights = {name: state.pop(name) for name in list(state) if isinstance(state[name], PACKED)}
        try:
            keep_packed(model, weights)
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{header.path}: {error}; not a complete file of its kind"
            ) from None
        load_strictly(model, state, header)
        if not isinstance(embedding, PACKED):
            model.encoder.embed_tokens.weight = model.shared.weight
        return cls(model, words)

    def tokens(self, prompt: str, length: int, note: Note = lambda text: None) -> Tensor:
        """Ids (1, length), end token included, padded with 0; a longer prompt takes 512 and says
        so.

        Raises RequestError for a prompt of more than 512 tokens.
        """
        ids = self.tokenizer.encode(prompt).ids
        if len(ids) > length:
            note(f"the prompt has {len(ids)} T5 tokens, more than {length}: using {T5_LONGEST}")
        length = _padded_length(len(ids), length)
        padded = torch.tensor([ids + [T5_PAD] * (length - len(ids))])
        check_ids(padded, self.model.config.vocab_size, "T5")
        return padded

    def encode(self, ids: Tensor) -> Tensor:
        """States (1, T, width) of ids (1, T). No attention mask: Flux was trained with the padding
        attended to.
        """
        return self.model(input_ids=ids.to(self.model.device)).last_hidden_state

    def encode_weighted(self, prompt: str) -> Tensor:
        """States (1, 256 * n, width) of a prompt whose (word:1.3) are read as sd-cli does, in as
        many chunks as it needs.
        """
        ids, weights = t5_weighted(self.tokenizer, parse_weights(prompt))
        check_ids(torch.tensor([[0, *ids]]), self.model.config.vocab_size, "T5")
        return encode_chunks(self.encode, t5_chunks(ids, weights))


def t5_length(tokenizer: Any, prompt: str, length: int, weighted: bool) -> int:
    """How many states T5 gives of a prompt, without the encoder. Raises RequestError for a prompt
    of more than 512 tokens.

    length: of `T5Text.tokens`. weighted: as `T5Text.encode_weighted` reads it.
    """
    if weighted:
        return sum(
            len(chunk.ids) for chunk in t5_chunks(*t5_weighted(tokenizer, parse_weights(prompt)))
        )
    return _padded_length(len(tokenizer.encode(prompt).ids), length)


def _padded_length(count: int, length: int) -> int:
    if count > T5_LONGEST:
        raise RequestError(
            f"the prompt has {count} T5 tokens, the most that Flux reads is {T5_LONGEST}; shorten it"
        )
    return length if count <= length else T5_LONGEST


def t5_name(name: str) -> str:
    """Hugging Face's name of a tensor for llama.cpp's; any other name as it is."""
    match = re.fullmatch(r"enc\.blk\.(\d+)\.(\w+)\.weight", name)
    if match and match[2] in T5_GGUF_BLOCK:
        return f"encoder.block.{match[1]}.layer.{T5_GGUF_BLOCK[match[2]]}.weight"
    top = T5_GGUF_TOP.get(name.removesuffix(".weight"))
    return f"{top}.weight" if top else name


def check_ids(ids: Tensor, rows: int, name: str) -> None:
    if int(ids.max()) >= rows:
        raise CheckpointError(
            f"{name} tokenizer gives id {int(ids.max())}, the encoder has {rows} rows; they do not belong together"
        )
