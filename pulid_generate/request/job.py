"""One picture to draw: the request with its own seed, who is in it, and what it starts from. Knows
no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy as np

from pulid_extract.shared.embedding_file import Embedding
from pulid_generate.request.conditions.bundle import NO_CONDITIONS, Conditions
from pulid_generate.request.conditions.mask_edge import feathered
from pulid_generate.request.generation import ALWAYS, GenerationRequest
from pulid_generate.request.passes.enlarging import enlarged_region
from pulid_generate.request.people.id_schedule import IdSchedule
from pulid_generate.request.prompts.tokens import LoraUse, Prompt
from pulid_generate.request.tiling import Tiling


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
    # X, Y, W, H in pixels of the picture, where the region was given so
    box: tuple[int, int, int, int] | None = None
    # Files of pictures that this person's face is recognised by in a detail pass
    references: tuple[bytes, ...] = field(default=(), repr=False)

    @cached_property
    def region_sha256(self) -> str | None:
        return (
            hashlib.sha256(self.region.tobytes()).hexdigest() if self.region is not None else None
        )

    @cached_property
    def reference_hashes(self) -> tuple[str, ...]:
        """SHA-256 of each reference."""
        return tuple(hashlib.sha256(data).hexdigest() for data in self.references)

    def close_up(self) -> Subject:
        """This person in a picture of the face alone: in all of it, at every step, as strongly."""
        schedule = IdSchedule(double=self.schedule.double, single=self.schedule.single)
        return replace(self, schedule=schedule, region=None, box=None, references=())

    def enlarged(self, drawn: GenerationRequest, larger: GenerationRequest) -> Subject:
        """This person in the larger picture of `larger`, at the same place."""
        if self.region is None:
            return self
        sizes = (drawn.width, drawn.height), (larger.width, larger.height)
        return replace(self, region=enlarged_region(self.region, *sizes))

    def is_seen(self, steps: int) -> bool:
        """Whether the identity is added with a weight other than 0 at any of so many steps."""
        return any(any(self.weights_at(step, steps)) for step in range(steps))

    def weights_at(self, step: int, steps: int) -> tuple[float, float]:
        """Weights after double and after single blocks at step `step` (from 0) of `steps`; 0
        outside the window.
        """
        double, single = self.schedule.weight_at(step, steps)
        return self.weight * double, self.weight * single


@dataclass(frozen=True, eq=False)
class StartPicture:
    """What image-to-image starts from."""

    # (H, W, 3) uint8 RGB of the size that is drawn
    pixels: np.ndarray = field(repr=False)
    # (H, W) uint8, 255 is redrawn; None for all of it
    mask: np.ndarray | None = field(default=None, repr=False)
    # sigma, in pixels, of the feather through which the redrawn part is put back
    mask_blur: float = 0.0
    # Whether grey of the mask is redrawn late, in the last steps alone, instead of mixed
    late: bool = False

    @cached_property
    def sha256(self) -> str:
        """Of the pixels as they are used, whatever file they came from."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels).tobytes()).hexdigest()

    @cached_property
    def feather(self) -> np.ndarray | None:
        """(H, W) uint8, the share of the redrawn picture in each pixel; None for all of it."""
        return feathered(self.mask, self.mask_blur) if self.mask is not None else None

    @cached_property
    def mask_sha256(self) -> str | None:
        return hashlib.sha256(self.mask.tobytes()).hexdigest() if self.mask is not None else None


@dataclass(frozen=True, eq=False)
class Job:
    """One picture to draw, fitted to a model: all of what decides its pixels but the files."""

    # As it was asked for
    request: GenerationRequest
    seed: int
    # Noise levels from the first to 0, one more than there are steps
    times: tuple[float, ...]
    # The prompt, and with true CFG the negative prompt
    prompts: tuple[Prompt, ...]
    # Nobody: then no hook is attached
    subjects: tuple[Subject, ...] = ()
    start: StartPicture | None = None
    # Pictures beside the words and the people
    conditions: Conditions = NO_CONDITIONS
    loras: tuple[LoraUse, ...] = ()
    # Of the autoencoder: asked for, or what the memory plan chose
    tiling: Tiling | None = None
    # What redraws the faces of the drawn picture: a pattern for the first face, the second and so
    # on, the last one for all further ones; None leaves a face as it is. Empty without such a pass
    faces: tuple[Job | None, ...] = ()
    # The second pass over the whole picture, in its larger size, before the faces; None without
    larger: Job | None = None
    # Draws of the seed's noise that are used before the first step's: one where the autoencoder
    # reads the enlarged picture of a second pass
    draws_before: int = 0
    # Draws of the first seed's noise before those of references: one for the picture that the first
    # pass starts from
    draws_before_references: int = 0

    @property
    def last(self) -> Job:
        """The pass that gives the whole picture its size and its people their places."""
        return self.larger or self

    @property
    def steps(self) -> int:
        return len(self.times) - 1

    @property
    def t5_tokens(self) -> tuple[int, ...]:
        """Of each prompt."""
        return tuple(prompt.t5_tokens for prompt in self.prompts)

    @property
    def passes(self) -> tuple[Job, ...]:
        """The patterns of all that is drawn after this."""
        return tuple(face for face in self.faces if face is not None)

    @property
    def all_prompts(self) -> tuple[Prompt, ...]:
        """What the text encoders read, for the passes after this one too."""
        prompts = list(self.prompts)
        for later in self.passes:
            prompts += later.all_prompts
        return tuple(dict.fromkeys(prompts))

    @property
    def people_seen(self) -> tuple[Subject, ...]:
        """Those whose identity is added with a weight other than 0."""
        return tuple(subject for subject in self.subjects if subject.is_seen(self.steps))

    @property
    def guided(self) -> bool:
        """Whether the model runs twice a step, with the negative prompt the second time."""
        return self.request.cfg_scale != 1

    @property
    def needs_uncond(self) -> bool:
        """Whether the negative branch sees the unconditional identity."""
        return self.guided and self.request.negative_id == "uncond"

    def numbered(self, index: int) -> Job:
        """The request's picture number `index`, from 0: the next seeds."""
        larger = self.larger.numbered(index) if self.larger is not None else None
        return replace(self, seed=self.request.seed + index, larger=larger)


# Fields of a request that jobs of one batch may differ in: the model takes them row by row, ..
BY_ROW = (
    "prompt",
    "negative_prompt",
    "seed",
    "batch_count",
    "guidance",
    "id_weight",
    "id_schedule",
)
# .. or the job's times are all that is left of them
IN_TIMES = ("steps", "sigmas", "scheduler", "flow_shift")
ALIKE = tuple(item.name for item in fields(GenerationRequest) if item.name not in BY_ROW + IN_TIMES)


def may_share(job: Job) -> bool:
    """Whether a batch may hold other jobs beside this one: with a cache of steps, whether a step is
    reused would depend on who they are; and conditions are one picture's.
    """
    return job.request.step_cache is None and not job.conditions


def batch_key(job: Job) -> Hashable:
    """Jobs of equal keys may share a batch: they differ in prompt, seed, guidance, identity and
    starting picture at most. With a cache of steps, or conditions, each is alone.
    """
    masked = job.start.late if job.start is not None and job.start.mask is not None else None
    asked = tuple(getattr(job.request, name) for name in ALIKE)
    alone = None if may_share(job) else id(job)
    # of the larger pass the times may differ all the same: they follow the steps asked for
    times = job.times, job.last.times
    return alone, asked, times, job.t5_tokens, job.tiling, masked, job.loras
