"""A prompt in the tokens that the text encoders read. Values only: knows no tokenizer and no
encoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class LoraUse:
    """A LoRA file and its weight; sha256 and name go into the picture's metadata."""

    path: Path
    weight: float
    sha256: str

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True)
class Chunk:
    """What one run of T5 reads: as many weights as ids, end token and padding included."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Prompt:
    """A text as the encoders read it."""

    text: str
    # T5 tokens that were asked for
    length: int
    # Whether (word:1.3) is read as sd-cli reads it
    weighted: bool
    # Those that may have parts for the text encoders
    loras: tuple[LoraUse, ...] = ()
    # CLIP's 77 ids, start, end and padding included
    clip_ids: tuple[int, ...] = field(default=(), repr=False)
    # T5's ids: one chunk, or with weights one for every 256
    t5_chunks: tuple[Chunk, ...] = field(default=(), repr=False)
    # What the user should know once it is encoded: which part is not read
    notes: tuple[str, ...] = ()

    @property
    def t5_tokens(self) -> int:
        """States that T5 gives of it."""
        return sum(len(chunk.ids) for chunk in self.t5_chunks)
