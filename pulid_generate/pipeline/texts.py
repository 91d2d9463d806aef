"""TODO"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from pulid_generate.request.job import Job, LoraUse

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class TextStates:
    """What Flux reads of a prompt: t5 (1, T, C) and pooled (1, P), in the compute dtype on the main
    device.
    """

    t5: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class Texts:
    """A job's prompt, and its negative prompt where it has a negative branch."""

    positive: TextStates
    negative: TextStates | None = None

    @property
    def lengths(self) -> tuple[int, ...]:
        """T5 tokens of each."""
        return tuple(
            states.t5.shape[1] for states in (self.positive, self.negative) if states is not None
        )


@dataclass(frozen=True)
class Prompt:
    """A text as the encoders are to read it. length: T5 tokens. weighted: with (word:1.3), as
    sd-cli. loras: that may have parts for them.
    """

    text: str
    length: int
    weighted: bool
    loras: tuple[LoraUse, ...] = ()


def prompts_of(job: Job) -> list[Prompt]:
    """The positive, and with true CFG the negative prompt."""
    request = job.request
    texts = (
        [request.prompt, request.negative_prompt] if request.cfg_scale != 1 else [request.prompt]
    )
    return [
        Prompt(text, request.t5_max_length, request.prompt_weights, job.loras) for text in texts
    ]
