"""`(word:1.3)`: a prompt's weights as sd-cli applies them to T5's states, and its chunks of a long
prompt.

Behind a flag, for the reference takes the text raw. Repeats sd-cli to the letter, oddities
included, so that its pictures can be repeated: each part is tokenised by itself, unnormalised; of
the escapes only `\\(` loses its backslash; BREAK is the word, with weight -1; CLIP reads the parts
without their weights, the first 75 tokens of them. Knows nothing of models: encoders come as
functions. Imports torch only to encode.

Source: leejet/stable-diffusion.cpp near 97d29908: src/core/util.cpp (parse_prompt_attention),
src/conditioning/conditioner.hpp (FluxCLIPEmbedder, apply_token_weights),
src/tokenizers/{tokenizer,t5_unigram_tokenizer}.cpp (pad_tokens, encode). The syntax is
AUTOMATIC1111/stable-diffusion-webui modules/prompt_parser.py.

Shapes: T tokens of a chunk, C channels of T5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pulid_generate.request.prompts.prompt_weights import Part
from pulid_generate.request.prompts.tokens import Chunk

if TYPE_CHECKING:
    from torch import Tensor

# FluxCLIPEmbedder, chunk_len
T5_CHUNK = 256
T5_END, T5_PAD = 1, 0
CLIP_LENGTH = 77
CLIP_START, CLIP_END = 49406, 49407
T5_SPECIAL = {"<pad>": T5_PAD, "</s>": T5_END, "<unk>": 2}


def t5_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of one part, without the end token, as sd-cli's own tokenizer gives them.

    tokenizer: a `tokenizers.Tokenizer` of T5, of which only the model is used. sd-cli knows none of
    T5's normalisation: it keeps a leading space (as a piece of its own), drops a trailing one,
    joins runs of them, and reads a line break as unknown.
    """
    ids: list[int] = []
    for piece in re.split("(<pad>|</s>|<unk>)", re.sub(" {2,}", " ", text)):
        if piece in T5_SPECIAL:
            ids.append(T5_SPECIAL[piece])
        elif piece:
            for token in tokenizer.model.tokenize("▁" + piece.removesuffix(" ").replace(" ", "▁")):
                # the library joins unknown characters that stand together; sd-cli gives one id for
                # each
                ids += [token.id] * (len(token.value) if token.id == T5_SPECIAL["<unk>"] else 1)
    return ids


def t5_weighted(tokenizer: Any, parts: Sequence[Part]) -> tuple[list[int], list[float]]:
    """(ids, weights) of the parts one after the other, without the end token."""
    ids: list[int] = []
    weights: list[float] = []
    for part in parts:
        own = t5_ids(tokenizer, part.text)
        ids += own
        weights += [part.weight] * len(own)
    return ids, weights


def t5_chunks(
    ids: Sequence[int], weights: Sequence[float] | None = None, length: int = T5_CHUNK
) -> list[Chunk]:
    """The prompt in chunks of `length` ids, each ended by the end token and padded. At least one.

    ids, weights: of the whole prompt, without the end token; None weighs nothing. End and padding
    have weight 1.
    """
    weights = [1.0] * len(ids) if weights is None else weights
    room = length - 1
    chunks = []
    for start in range(0, max(len(ids), 1), room):
        part, part_weights = list(ids[start : start + room]), list(weights[start : start + room])
        filling = [T5_END] + [T5_PAD] * (room - len(part))
        chunks.append(Chunk((*part, *filling), (*part_weights, *[1.0] * len(filling))))
    return chunks


def clip_ids(tokenizer: Any, parts: Sequence[Part]) -> list[int]:
    """The 77 ids that CLIP reads: the first 75 of the parts' tokens. Their weights change nothing,
    as the pooled vector has none.

    tokenizer: CLIP's, as tokenizers.clip_tokenizer gives it.
    """
    ids: list[int] = []
    for part in parts:
        ids += tokenizer.encode(part.text, add_special_tokens=False).ids
    return padded_clip_ids(ids)


def padded_clip_ids(ids: Sequence[int]) -> list[int]:
    """The 77 ids that CLIP reads: the first 75 of a prompt's tokens between start and end."""
    read = list(ids[: CLIP_LENGTH - 2])
    return [CLIP_START, *read, *[CLIP_END] * (CLIP_LENGTH - 1 - len(read))]


def weigh_states(states: Tensor, weights: Sequence[float]) -> Tensor:
    """States (1, T, C) times their tokens' weights, scaled back to the mean they had. float32; as
    it came where every weight is 1.

    The mean is of all T * C numbers, which are of both signs and nearly cancel: a strong weight can
    scale every token, and by a lot.
    """
    if all(weight == 1 for weight in weights):
        return states
    states = states.float()
    weighted = states * states.new_tensor(weights)[None, :, None]
    # on the CPU: Metal has no float64
    before, after = (numbers.cpu().double().mean().float() for numbers in (states, weighted))
    if before.isfinite() and after.isfinite() and after != 0:
        weighted = weighted * (before / after)
    return weighted


def encode_chunks(encode: Callable[[Tensor], Tensor], chunks: Sequence[Chunk]) -> Tensor:
    """States (1, chunks * T, C): each chunk encoded by itself, weighed by itself.

    encode: ids (1, T) int64 -> states (1, T, C), such as T5Text.encode.
    """
    import torch

    states = []
    for chunk in chunks:
        states.append(weigh_states(encode(torch.tensor([chunk.ids])), chunk.weights))
    return torch.cat(states, dim=1)
