"""One picture to draw: the request with its own seed, who is in it, and what it starts from. Knows
no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from pulid_extract.shared.embedding_file import Embedding
from pulid_generate.request.generation import ALWAYS, GenerationRequest
from pulid_generate.request.id_schedule import IdSchedule


@dataclass(frozen=True, eq=False)
class Subject:
    """Somebody in the picture, with all that decides this person's part in it."""

    embedding: Embedding
    # Strength of the identity: nothing else is multiplied with it but the schedule's factors
    weight: float = 1.0
    # At which steps
    schedule: IdSchedule = ALWAYS
    # (L,) float32 in [0, 1] over the image tokens; None for the whole picture
    region: np.ndarray | None = field(default=None, repr=False)

    @cached_property
    def region_sha256(self) -> str | None:
        return (
            hashlib.sha256(self.region.tobytes()).hexdigest() if self.region is not None else None
        )

    def weights_at(self, step: int, steps: int) -> tuple[float, float]:
        """Weights after double and after single blocks at step `step` (from 0) of `steps`; 0
        outside the window.
        """
        double, single = self.schedule.weight_at(step, steps)
        return self.weight * double, self.weight * single


@dataclass(frozen=True)
class LoraUse:
    """A LoRA file and its weight; sha256 and name go into the picture's metadata."""

    path: Path
    weight: float
    sha256: str

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True, eq=False)
class StartPicture:
    """What image-to-image starts from.

    pixels: (H, W, 3) uint8 RGB of the size that is drawn. mask: (H, W) uint8, 255 is redrawn, None
    for all of it.
    """

    pixels: np.ndarray = field(repr=False)
    mask: np.ndarray | None = field(default=None, repr=False)

    @cached_property
    def sha256(self) -> str:
        """Of the pixels as they are used, whatever file they came from."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels).tobytes()).hexdigest()

    @cached_property
    def mask_sha256(self) -> str | None:
        return hashlib.sha256(self.mask.tobytes()).hexdigest() if self.mask is not None else None


@dataclass(frozen=True, eq=False)
class Job:
    """One picture: a request with its schedule, its own seed, nobody (then no hook is attached) or
    some subjects, and a start or None.
    """

    request: GenerationRequest
    seed: int
    subjects: tuple[Subject, ...] = ()
    start: StartPicture | None = None
    loras: tuple[LoraUse, ...] = ()

    @property
    def steps(self) -> int:
        """Of the resolved request."""
        return len(self.request.sigmas or ()) - 1


def batch_key(job: Job, t5_lengths: tuple[int, ...]) -> Hashable:
    """Jobs of equal keys may share a batch: they differ in prompt, seed, guidance, identity and
    starting picture at most.

    t5_lengths: as `Texts.lengths`.
    """
    masked = job.start is not None and job.start.mask is not None
    alike = replace(
        job.request,
        prompt="",
        negative_prompt="",
        seed=0,
        batch_count=1,
        guidance=0.0,
        id_weight=1.0,
    )
    return (
        replace(alike, id_schedule=GenerationRequest("").id_schedule),
        t5_lengths,
        masked,
        job.loras,
    )
