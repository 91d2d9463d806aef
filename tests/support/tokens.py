"""Prompts in the tokens of CLIP and T5, for tests of the encoders."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pulid_generate.models.prompt_reader import PromptReader


def t5_ids(vocabulary: Path, text: str, length: int) -> Tensor:
    """(1, length) ids of a prompt, end token and padding included. vocabulary: as of
    `read_t5_tokenizer`.
    """
    [chunk] = PromptReader(vocabulary).read(text, length).t5_chunks
    return torch.tensor([chunk.ids])


def clip_ids(vocabulary: Path, text: str) -> tuple[int, ...]:
    """The 77 ids of a prompt. vocabulary: T5's, which reads the prompt as well."""
    return PromptReader(vocabulary).read(text, 256).clip_ids
