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
from pathlib import Path

from pulid_extract.shared.file_names import path_of
from pulid_generate.errors import InputError, RequestError

# Far beyond what T5 reads: a larger file is not a prompt
MAX_FILE_BYTES = 1 << 20
TAG = re.compile(r"<lora:([^:>]+):([^>]+)>")
TAG_START = re.compile(r"<lora\b", re.IGNORECASE)
# sd-cli: for the second model of Wan 2.2
HIGH_NOISE = "|high_noise|"
OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def read_prompt_file(path: str | Path, may_be_empty: bool = False) -> str:
    """The text of a UTF-8 file, or of standard input for "-". A byte order mark and the line ends
    after the last line are left out.

    may_be_empty: for a negative prompt, whose default is the empty one. Raises InputError.
    """
    where = "standard input" if str(path) == "-" else str(path)
    data = _read(path, where)
    if len(data) > MAX_FILE_BYTES:
        raise InputError(
            f"{where}: is larger than {MAX_FILE_BYTES >> 20} MiB; "
            "expected a prompt, in plain UTF-8 text"
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
        with open(path_of(path), "rb") as file:
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
            f"prompt: {text[left.start() :][:40]!r} is not a LoRA tag; expected <lora:NAME:WEIGHT>"
        )
    return text, tags


def refuse_lora_tags(negative_prompt: str) -> None:
    """Raise RequestError for a tag in a negative prompt: a LoRA changes the model, for both
    branches.
    """
    if TAG_START.search(negative_prompt):
        raise RequestError(
            "negative prompt: holds a <lora:..> tag; tags belong in the prompt, "
            "a negative weight takes a LoRA away"
        )


def _tag(match: re.Match[str]) -> tuple[str, float]:
    name, weight = match[1].strip(), match[2].strip()
    if name.startswith(HIGH_NOISE):
        raise RequestError(
            f"prompt: {match[0]!r} is for a video model's high-noise half; "
            f"Flux has one model, drop {HIGH_NOISE!r}"
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
