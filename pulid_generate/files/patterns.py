"""Regular expressions out of files: those that cannot take long. Knows nothing of what they meet.

Python's and Oniguruma's engines go back over repeated groups, which can take for ever on a text of
thirty characters. What is taken here has no repeated group, no reference and few repetitions, none
of thousands: on texts of 128 characters a millisecond at most.
"""

from __future__ import annotations

import re

MAX_CHARACTERS = 128
MAX_REPETITIONS = 2
FORBIDDEN = re.compile(r"\)[*+?{]|\(\?|\\[1-9gkpPX]|\{[^}]*\d{4}")
REPETITION = re.compile(r"(?<!\\)[*+?{]")


def check_pattern(text: str) -> None:
    """Raise ValueError, with the reason, for a pattern that is none, or could take long."""
    shown = repr(text[:60])
    if len(text) > MAX_CHARACTERS or FORBIDDEN.search(text):
        raise ValueError(f"the pattern {shown} is longer or richer than is read here")
    if len(REPETITION.findall(text)) > MAX_REPETITIONS:
        raise ValueError(f"the pattern {shown} repeats too much")
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"the pattern {shown} is none ({error})") from None


def is_repeating(text: str) -> bool:
    """Whether what it meets can be of any length."""
    return REPETITION.search(text) is not None
