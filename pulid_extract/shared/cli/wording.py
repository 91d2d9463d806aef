"""Wrong usage in plain words: what typer's validator says of a value, and what a word in the wrong
place may have meant. Knows no command.
"""

from __future__ import annotations

import itertools
from typing import Any

# pydantic's kind of error -> what is said of the value
WORDINGS = {
    "int_parsing": "is not an integer",
    "int_parsing_size": "is too large",
    "int_from_float": "is not an integer",
    "int_type": "is not an integer",
    "float_parsing": "is not a number",
    "float_type": "is not a number",
    "bool_parsing": "is neither true nor false",
    "greater_than_equal": "is below {ge}",
    "less_than_equal": "is above {le}",
}


def in_plain_words(error: Any) -> None:
    """Rewrite the message of click's error about a value, where it is the validator's own."""
    validation = error.__cause__
    if not hasattr(validation, "errors"):
        return
    [first, *_] = validation.errors(include_url=False)
    wording = WORDINGS.get(first["type"])
    if wording is None:
        error.message = str(error.message).removeprefix("Value error, ")
        return
    value = first["input"]
    shown = repr(value) if isinstance(value, str) else f"{value:g}"
    error.message = f"{shown} {wording.format(**first.get('ctx', {}))}."


def unquoted(words: list[str], flag: str, text: str | None) -> str | None:
    """What to say of words that no option takes, behind a text that has only one word: None if that
    is not what happened. flag: whose text it is.
    """
    if not text or not words:
        return None
    # the options behind it are none of the text
    plain = itertools.takewhile(lambda word: not word.startswith("-"), words)
    whole = " ".join([text, *plain])
    return (
        f'{words[0]!r} belongs to no option. A text of several words needs quotes: {flag} "{whole}"'
    )
