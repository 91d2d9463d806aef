"""JSON that anybody may have written: the headers of model files, the metadata of pictures,
manifests, the answers of programs, bodies of requests.

What comes out holds no surprise: text that can be written, numbers that are numbers, a depth that
can be walked, every name once. Knows nothing of what is in it.

Source: RFC 8259, sections 4 (names), 6 (numbers), 8 (characters) and 9 (limits of a reader).
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

# of lists and objects in each other; a manifest has 2, a model's configuration 5
MAX_DEPTH = 64
# digits of a whole number: 128 bits have 39
MAX_DIGITS = 40
# lists and objects together: a million take about 70 MB
MAX_CONTAINERS = 1_000_000
# commas, those in texts too: four million values take a second
MAX_COMMAS = 4_000_000
# only then can there be half a character
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(text: str | bytes) -> Any:
    """The value that a text holds. Raises ValueError, whose text is the reason, for what is not
    JSON in UTF-8: NaN and infinity too, a name that is named twice in one object, whole numbers of
    more than 40 digits, halves of characters; and for more than 64 levels, a million lists and
    objects or four million commas.
    """
    decoded = _decoded(text)
    if decoded.count("[") + decoded.count("{") > MAX_CONTAINERS:
        raise ValueError(f"it holds more than {MAX_CONTAINERS} lists and objects")
    if decoded.count(",") > MAX_COMMAS:
        raise ValueError(f"it holds more than {MAX_COMMAS} commas")
    try:
        value = json.loads(
            decoded,
            object_pairs_hook=_object,
            parse_int=_whole,
            parse_float=_float,
            parse_constant=_constant,
        )
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg}, at character {error.pos + 1}") from None
    _check(value, may_hold_halves=_HALF.search(decoded) is not None)
    return value


def read_object(text: str | bytes) -> dict[str, Any]:
    """As `read_json`, and an object. Raises ValueError for any other value."""
    value = read_json(text)
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    return value


def _decoded(text: str | bytes) -> str:
    try:
        if isinstance(text, bytes):
            return text.decode("utf-8-sig")
        # bytes that are not UTF-8 came in as halves of characters
        text.encode()
    except UnicodeError:
        raise ValueError("it is not UTF-8") from None
    return text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name is named twice")
    return value


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits[:20]} is too large")
    return number


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _check(value: Any, may_hold_halves: bool) -> None:
    """Level by level, so that the depth of what is walked is not the depth of the walk."""
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        for one in level:
            if isinstance(one, str):
                if may_hold_halves:
                    _check_text(one)
            elif isinstance(one, dict | list):
                if depth == MAX_DEPTH:
                    raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
                below.extend(one)
                if isinstance(one, dict):
                    below.extend(one.values())
        level, depth = below, depth + 1


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a text holds half a character") from None
