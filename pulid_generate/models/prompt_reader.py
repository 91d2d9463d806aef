"""Prompts read into tokens, once, and judged: the one place that knows how long a prompt may be.
Knows both tokenizers, and nothing of the encoders.

Sources: black-forest-labs/flux src/flux/modules/conditioner.py (lengths, padding); for prompts with
weights see `weighted_prompts`.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from textwrap import shorten
from typing import Any

from pulid_generate.errors import RequestError
from pulid_generate.files.layouts import T5_LONGEST
from pulid_generate.models.tokenizers import clip_tokenizer, read_t5_tokenizer
from pulid_generate.models.weighted_prompts import (
    CLIP_LENGTH,
    T5_PAD,
    clip_ids,
    padded_clip_ids,
    t5_chunks,
    t5_weighted,
)
from pulid_generate.request.prompts.prompt_weights import parse_weights
from pulid_generate.request.prompts.tokens import Chunk, LoraUse, Prompt

# characters of a prompt in a note
MOST_NAMED = 40
# Prompts: rows of a batch share most of theirs
REMEMBERED = 4096


class PromptReader:
    """Reads prompts. The same prompt is tokenised once, and is one object, as long as it is among
    the last `REMEMBERED`.

    A tokenizer is opened when it is first needed, which may raise CheckpointError.
    """

    def __init__(self, t5_file: Path, learnt: int | None = None):
        """t5_file: as of `read_t5_tokenizer`. learnt: T5 tokens of the longest prompts that Flux
        was trained with, if longer ones are to be noted.
        """
        self._learnt = learnt
        self._t5_file = t5_file
        self._remembered = lru_cache(REMEMBERED)(self._read)

    @cached_property
    def clip(self) -> Any:
        """CLIP's tokenizer."""
        return clip_tokenizer()

    @cached_property
    def t5(self) -> Any:
        """T5's tokenizer."""
        return read_t5_tokenizer(self._t5_file)

    def forget_clip(self) -> None:
        """Let CLIP's tokenizer go, 33 MB; the next new prompt opens it again, in 0.1 s."""
        self.__dict__.pop("clip", None)

    def read(
        self, text: str, length: int, weighted: bool = False, loras: tuple[LoraUse, ...] = ()
    ) -> Prompt:
        """length: T5 tokens, padded; a longer prompt takes 512. weighted: read (word:1.3) as sd-cli
        does, in as many pieces as it needs.

        Raises RequestError for a prompt of more than 512 T5 tokens, unless it is read in pieces.
        """
        return self._remembered(text, length, weighted, loras)

    def _read(self, text: str, length: int, weighted: bool, loras: tuple[LoraUse, ...]) -> Prompt:
        if weighted:
            parts = parse_weights(text)
            chunks = tuple(t5_chunks(*t5_weighted(self.t5, parts)))
            return Prompt(text, length, True, loras, tuple(clip_ids(self.clip, parts)), chunks)
        ids = self.t5.encode(text).ids
        if len(ids) > T5_LONGEST:
            raise RequestError(
                f"the prompt has {len(ids)} T5 tokens, the most that Flux reads is {T5_LONGEST}; "
                "shorten it"
            )
        notes, named = [], _named(text)
        if self._learnt is not None and len(ids) > self._learnt:
            notes.append(
                f"{named}: has {len(ids)} T5 tokens; this Flux is a small world's and has learnt "
                f"{self._learnt} at most, from longer prompts it draws monsters"
            )
        words = self.clip.encode(text).ids[1:-1]
        if len(words) > CLIP_LENGTH - 2:
            notes.append(
                f"{named}: CLIP reads the first {CLIP_LENGTH - 2} of its {len(words)} tokens; "
                "T5 reads all"
            )
        padded = length
        if len(ids) > length:
            notes.append(
                f"{named}: has {len(ids)} T5 tokens, more than {length}: using {T5_LONGEST}"
            )
            padded = T5_LONGEST
        chunk = Chunk((*ids, *[T5_PAD] * (padded - len(ids))), _even_weights(padded))
        return Prompt(
            text, length, False, loras, tuple(padded_clip_ids(words)), (chunk,), tuple(notes)
        )


def _named(text: str) -> str:
    """A prompt's first words: of many, the one that is spoken of."""
    return f"prompt {shorten(text, MOST_NAMED, placeholder=' ..')!r}"


@lru_cache
def _even_weights(count: int) -> tuple[float, ...]:
    """One tuple for all prompts of a length."""
    return (1.0,) * count
