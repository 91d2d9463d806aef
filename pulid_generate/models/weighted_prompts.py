"""`(word:1.3)`: a prompt's weights as sd-cli applies them to T5's states, and its chunks of a long prompt.

Behind a flag, for the reference takes the text raw. Repeats sd-cli to the letter, oddities included, so that its pictures can be repeated:
each part is tokenised by itself, unnormalised; of the escapes only `\\(` loses its backslash; BREAK is the word, with weight -1; CLIP reads
the parts without their weights, the first 75 tokens of them. Knows nothing of models: encoders come as functions. Imports torch only to
encode.

Source: leejet/stable-diffusion.cpp near 97d29908: src/core/util.cpp (parse_prompt_attention), src/conditioning/conditioner.hpp
(FluxCLIPEmbedder, apply_token_weights), src/tokenizers/{tokenizer,t5_unigram_tokenizer}.cpp (pad_tokens, encode). The syntax is
AUTOMATIC1111/stable-diffusion-webui modules/prompt_parser.py.

Shapes: T tokens of a chunk, C channels of T5.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pulid_generate.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

T5_CHUNK = 256  # FluxCLIPEmbedder, chunk_len
T5_END, T5_PAD = 1, 0
CLIP_LENGTH = 77
CLIP_START, CLIP_END = 49406, 49407
ROUND, SQUARE = np.float32(1.1), np.float32(1) / np.float32(1.1)  # of (word) and [word]
BREAK = np.float32(-1)

# Matched at the head of what is left of the prompt, so that \b also holds after any earlier match. ASCII, as C++'s classes of bytes are.
TOKEN = re.compile(
    r"\\\(|\\\)|\\\[|\\]|\\\\|\\|\(|\[|:(?P<weight>[+-]?[.\d]+)\)|\)|]|\bBREAK\b|[^\\()\[\]:B]+|:|\bB",
    re.ASCII,
)
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")  # what C's strtof reads of such a weight; the rest is ignored
T5_SPECIAL = {"<pad>": T5_PAD, "</s>": T5_END, "<unk>": 2}


@dataclass(frozen=True)
class Part:
    """A piece of the prompt and the weight of its tokens, a float32 number."""

    text: str
    weight: float


@dataclass(frozen=True)
class Chunk:
    """What one run of T5 reads: as many weights as ids."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


def parse_weights(prompt: str) -> list[Part]:
    """The prompt in parts of equal weight, at least one. Raises RequestError for a weight that is not a number, such as (word:.).

    (word) is 1.1, [word] 1/1.1, (word:1.3) 1.3; they nest and multiply; a bracket that is not closed holds to the end.
    """
    parts: list[tuple[str, np.float32]] = []
    round_starts: list[int] = []
    square_starts: list[int] = []

    def multiply(start: int, factor: np.float32) -> None:
        with np.errstate(all="ignore"):  # too large a product is an error below, in one line
            parts[start:] = [(text, weight * factor) for text, weight in parts[start:]]

    rest = prompt
    while match := TOKEN.match(rest):
        token, weight = match[0], match["weight"]
        rest = rest[match.end() :]
        if token == "(":
            round_starts.append(len(parts))
        elif token == "[":
            square_starts.append(len(parts))
        elif weight is not None:
            if round_starts:  # otherwise the characters vanish, as in sd-cli
                multiply(round_starts.pop(), _number(weight, prompt))
        elif token == ")" and round_starts:
            multiply(round_starts.pop(), ROUND)
        elif token == "]" and square_starts:
            multiply(square_starts.pop(), SQUARE)
        elif token == r"\(":
            parts.append(("(", np.float32(1)))
        else:
            parts.append((token, BREAK if token == "BREAK" else np.float32(1)))
    for start in round_starts:
        multiply(start, ROUND)
    for start in square_starts:
        multiply(start, SQUARE)
    return _merged(parts)


def _number(text: str, prompt: str) -> np.float32:
    match = NUMBER.match(text)
    with np.errstate(over="ignore"):
        number = np.float32(match[0]) if match else np.float32("nan")
    if not np.isfinite(number):
        raise RequestError(
            f"prompt: the weight in '{_shortened(prompt, f':{text})')}' is not a number; expected one such as (word:1.3)"
        )
    return number


def _shortened(prompt: str, near: str) -> str:
    at = prompt.find(near)
    return prompt[max(at - 20, 0) : at + len(near)]


def _merged(parts: list[tuple[str, np.float32]]) -> list[Part]:
    merged: list[Part] = []
    for text, weight in parts or [("", np.float32(1))]:
        if not math.isfinite(weight):
            raise RequestError("prompt: the weights of nested brackets multiply to more than a number can hold; use smaller ones")
        if merged and merged[-1].weight == float(weight):
            merged[-1] = Part(merged[-1].text + text, merged[-1].weight)
        else:
            merged.append(Part(text, float(weight)))
    return merged


def t5_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of one part, without the end token, as sd-cli's own tokenizer gives them.

    tokenizer: a `tokenizers.Tokenizer` of T5, of which only the model is used. sd-cli knows none of T5's normalisation: it keeps a leading
    space (as a piece of its own), drops a trailing one, joins runs of them, and reads a line break as unknown.
    """
    ids: list[int] = []
    for piece in re.split("(<pad>|</s>|<unk>)", re.sub(" {2,}", " ", text)):
        if piece in T5_SPECIAL:
            ids.append(T5_SPECIAL[piece])
        elif piece:
            for token in tokenizer.model.tokenize("▁" + piece.removesuffix(" ").replace(" ", "▁")):
                # the library joins unknown characters that stand together; sd-cli gives one id for each
                ids += [token.id] * (len(token.value) if token.id == T5_SPECIAL["<unk>"] else 1)
    return ids


def t5_weighted(tokenizer: Any, parts: Sequence[Part]) -> tuple[list[int], list[float]]:
    """(ids, weights) of the parts one after the other, without the end token."""
    encoded = [(t5_ids(tokenizer, part.text), part.weight) for part in parts]
    return [i for ids, _ in encoded for i in ids], [weight for ids, weight in encoded for _ in ids]


def t5_chunks(ids: Sequence[int], weights: Sequence[float] | None = None, length: int = T5_CHUNK) -> list[Chunk]:
    """The prompt in chunks of `length` ids, each ended by the end token and padded. At least one.

    ids, weights: of the whole prompt, without the end token; None weighs nothing. End and padding have weight 1.
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
    """The 77 ids that CLIP reads: the first 75 of the parts' tokens. Their weights change nothing, as the pooled vector has none.

    tokenizer: transformers' CLIPTokenizer.
    """
    ids = [i for part in parts for i in tokenizer(part.text, add_special_tokens=False)["input_ids"]][: CLIP_LENGTH - 2]
    return [CLIP_START, *ids, *[CLIP_END] * (CLIP_LENGTH - 1 - len(ids))]


def weigh_states(states: Tensor, weights: Sequence[float]) -> Tensor:
    """States (1, T, C) times their tokens' weights, scaled back to the mean they had. float32; as it came where every weight is 1.

    The mean is of all T * C numbers, which are of both signs and nearly cancel: a strong weight can scale every token, and by a lot.
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

    return torch.cat([weigh_states(encode(torch.tensor([chunk.ids])), chunk.weights) for chunk in chunks], dim=1)
