"""A prompt as the user gave it: read from a file, and the `<lora:name:weight>` tags taken out of
it. Imports no torch.

Knows nothing of tokens, of models or of where a LoRA lies; `lora/choice.py` looks its name up.

Source of the tag: leejet/stable-diffusion.cpp 97d29908 examples/common/common.cpp
(extract_and_remove_lora). There a tag that cannot be read, or whose file is missing, is dropped
with a warning at most; here it is an error.
"""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pulid_generate.errors import InputError, RequestError

if TYPE_CHECKING:
    pass

MAX_FILE_BYTES = 1 << 20  # far beyond what T5 reads: a larger file is not a prompt
TAG = re.compile(r"<lora:([^:>]+):([^>]+)>")
TAG_START = re.compile(r"<lora\b", re.IGNORECASE)
HIGH_NOISE = "|high_noise|"  # sd-cli: for the second model of Wan 2.2
OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def read_prompt_file(path: str | Path, may_be_empty: bool = False) -> str:
    """The text of a UTF-8 file, or of standard input for "-". A byte order mark and the line ends
    after the last line are no part of it.

    may_be_empty: for a negative prompt, whose default is the empty one. Raises InputError.
    """
    where = "standard input" if str(path) == "-" else str(path)
    data = _read(path, where)
    if len(data) > MAX_FILE_BYTES:
        raise InputError(
            f"{where}: is larger than {MAX_FILE_BYTES >> 20} MiB; expected a prompt, in plain UTF-8 text"
        )
    for mark, encoding in OTHER_ENCODINGS.items():
        if data.startswith(mark):
            raise InputError(f"{where}: is {encoding} text; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: byte {error.start + 1} is not UTF-8; expected a prompt, in plain UTF-8 text"
        ) from None
    if "\0" in text:
        raise InputError(f"{where}: holds a zero byte; expected a prompt, in plain UTF-8 text")
    text = text.replace("\r\n", "\n").rstrip("\r\n")
    if not text.strip() and not may_be_empty:
        raise InputError(f"{where}: holds no text; write the prompt into it")
    return text


def _read(path: str | Path, where: str) -> bytes:
    try:
        if str(path) == "-":
            if sys.stdin is None:
                raise InputError(f"{where}: is closed; pipe a prompt into it, or name a file")
            return sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        with open(Path(path).expanduser(), "rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{where}: no such prompt file") from None
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror or error})") from None


def take_lora_tags(prompt: str) -> tuple[str, tuple[tuple[str, float], ...]]:
    """The prompt without its `<lora:name:weight>` tags, and (name, weight) of each, in order. The
    text around a tag stays as it is.

    Raises RequestError for anything else that begins with "<lora": the text encoders would read it
    as words.
    """
    tags = tuple(_tag(match) for match in TAG.finditer(prompt))
    text = TAG.sub("", prompt)
    left = TAG_START.search(text)
    if left:
        raise RequestError(
            f"prompt: {text[left.start() :][:40]!r} is no LoRA tag; expected <lora:NAME:WEIGHT>"
        )
    return text, tags


def refuse_lora_tags(negative_prompt: str) -> None:
    """Raise RequestError for a tag in a negative prompt: a LoRA changes the model, for both
    branches.
    """
    if TAG_START.search(negative_prompt):
        raise RequestError(
            "negative prompt: holds a <lora:..> tag; tags belong in the prompt, a negative weight takes a LoRA away"
        )


def _tag(match: re.Match[str]) -> tuple[str, float]:
    name, weight = match[1].strip(), match[2].strip()
    if name.startswith(HIGH_NOISE):
        raise RequestError(
            f"prompt: {match[0]!r} is for a video model's high-noise half; Flux has one model, drop {HIGH_NOISE!r}"
        )
    if not name:
        raise RequestError(f"prompt: {match[0]!r} names no LoRA; expected <lora:NAME:WEIGHT>")
    return name, read_weight(weight, f"prompt: {match[0]!r}")


def read_weight(text: str, where: str) -> float:
    """A LoRA's weight: any finite number. Raises RequestError, whose line begins with `where`."""
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight) or "_" in text:
        raise RequestError(
            f"{where}: the weight {text!r} is not a number; expected one such as 0.8"
        )
    return weight


ROUND, SQUARE = np.float32(1.1), np.float32(1) / np.float32(1.1)  # of (word) and [word]


BREAK = np.float32(-1)


# Matched at the head of what is left of the prompt, so that \b also holds after any earlier match.
# ASCII, as C++'s classes of bytes are.
TOKEN = re.compile(
    r"\\\(|\\\)|\\\[|\\]|\\\\|\\|\(|\[|:(?P<weight>[+-]?[.\d]+)\)|\)|]|\bBREAK\b|[^\\()\[\]:B]+|:|\bB",
    re.ASCII,
)


# what C's strtof reads of such a weight; the rest is ignored
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
            raise RequestError(
                "prompt: the weights of nested brackets multiply to more than a number can hold; use smaller ones"
            )
        if merged and merged[-1].weight == float(weight):
            merged[-1] = Part(merged[-1].text + text, merged[-1].weight)
        else:
            merged.append(Part(text, float(weight)))
    return merged
