"""`(word:1.3)`: a prompt in parts of equal weight, as sd-cli reads it. Pure text; imports no torch.

Repeats sd-cli to the letter, oddities included: of the escapes only `\\(` loses its backslash;
BREAK is the word, with weight -1.

Source: leejet/stable-diffusion.cpp near 97d29908: src/core/util.cpp (parse_prompt_attention). The
syntax is AUTOMATIC1111/stable-diffusion-webui modules/prompt_parser.py.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from pulid_generate.errors import RequestError

# Of (word), [word] and BREAK
ROUND, SQUARE, BREAK = np.float32(1.1), np.float32(1) / np.float32(1.1), np.float32(-1)
# Matched at the head of what is left of the prompt, so that \b also holds after any earlier match.
# ASCII, as C++'s classes of bytes are.
TOKEN = re.compile(
    r"\\\(|\\\)|\\\[|\\]|\\\\|\\|\(|\[|:(?P<weight>[+-]?[.\d]+)\)|\)|]|\bBREAK\b|[^\\()\[\]:B]+|:|\bB",
    re.ASCII,
)
# What C's strtof reads of such a weight; the rest is ignored
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")


@dataclass(frozen=True)
class Part:
    """A piece of the prompt and the weight of its tokens, a float32 number."""

    text: str
    weight: float


def parse_weights(prompt: str) -> list[Part]:
    """The prompt in parts of equal weight, at least one. Raises RequestError for a weight that is
    not a number, such as (word:.).

    (word) is 1.1, [word] 1/1.1, (word:1.3) 1.3; they nest and multiply; a bracket that is not
    closed holds to the end.
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
            f"prompt: the weight in '{_shortened(prompt, f':{text})')}' is not a number; "
            "expected one such as (word:1.3)"
        )
    return number


def _shortened(prompt: str, near: str) -> str:
    at = prompt.find(near)
    return prompt[max(at - 20, 0) : at + len(near)]


def _merged(parts: list[tuple[str, np.float32]]) -> list[Part]:
    merged: list[Part] = []
    for text, weight in parts or [("", np.float32(1))]:
        if not math.isfinite(weight):
            raise RequestError(
                "prompt: the weights of nested brackets multiply to more than a number can hold; "
                "use smaller ones"
            )
        if merged and merged[-1].weight == float(weight):
            merged[-1] = Part(merged[-1].text + text, merged[-1].weight)
        else:
            merged.append(Part(text, float(weight)))
    return merged
