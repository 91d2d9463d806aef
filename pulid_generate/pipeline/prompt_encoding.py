"""Prompts to what Flux reads of them: CLIP-L and T5, and the cache in front of both. Knows no
picture and no order but its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from pulid_generate.errors import CheckpointError
from pulid_generate.files.model import Model
from pulid_generate.memory.devices import give_back_memory
from pulid_generate.pipeline.callers import Reports
from pulid_generate.pipeline.fitting import Fitting
from pulid_generate.pipeline.loaded import LoadedModels
from pulid_generate.pipeline.text_cache import TextCache
from pulid_generate.pipeline.texts import (
    Texts,
    TextStates,
    TextStore,
    check_finite,
    encode_prompts,
    pool_prompts,
)
from pulid_generate.request.job import Job
from pulid_generate.request.prompts.tokens import Prompt


class PromptEncoder:
    """Encodes what the cache does not hold."""

    def __init__(self, fitting: Fitting, cache: TextCache, loaded: LoadedModels, reports: Reports):
        self.fitting, self.reports = fitting, reports
        self.models = loaded.models
        self._loaded = loaded
        self._store = TextStore(cache, fitting.files, loaded.models.placement)

    def lacks(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """The prompts that are not encoded yet."""
        return self._store.lacks(prompts)

    def texts(self, job: Job) -> Texts:
        """What Flux reads for a job. Raises as `encode`."""
        return Texts(*(self._text(prompt) for prompt in job.prompts))

    def encode(self, prompts: Sequence[Prompt]) -> None:
        """See `Engine.encode`."""
        beside, missing = self._loaded.stays(Model.T5), self.lacks(prompts)
        if not missing:
            return
        if not beside:
            self._loaded.release()
        pooled = self._pool(missing)
        give_back_memory()
        self._encode(missing, pooled)
        give_back_memory()

    def _pool(self, prompts: Sequence[Prompt]) -> dict[Prompt, Tensor]:
        """CLIP's vector of every prompt, in the compute dtype on the main device."""
        place = self.models.placement
        with self._loaded.running(Model.CLIP):
            clip = self._loaded.clip()
            for prompt in prompts:
                for line in prompt.notes:
                    self.reports.note(line)
            attach = partial(self._loaded.attached, clip.model, Model.CLIP)
            pooled = {}
            for prompt, vector in zip(prompts, pool_prompts(clip, prompts, attach), strict=True):
                check_finite(vector, self.fitting.files.clip_l)
                pooled[prompt] = vector.to(place.device, place.dtype)
        return pooled

    def _encode(self, prompts: Sequence[Prompt], pooled: dict[Prompt, Tensor]) -> None:
        """T5's states of every prompt, into the cache."""
        place = self.models.placement

        def keep(prompt: Prompt, states: Tensor) -> None:
            check_finite(states, self.fitting.files.t5xxl)
            on_main = states.to(place.device, place.dtype)
            self._store.put(prompt, TextStates(on_main, pooled[prompt]))

        with self._loaded.running(Model.T5):
            t5 = self._loaded.t5()
            attach = partial(self._loaded.attached, t5.model, Model.T5)
            encode_prompts(t5, prompts, attach, keep)

    def _text(self, prompt: Prompt) -> TextStates:
        found = self._store.get(prompt)
        if found is None:  # damaged, or another process has made room
            self.encode([prompt])
            found = self._store.get(prompt)
        if found is None:
            raise CheckpointError(
                "an encoded prompt was taken out of the cache while it was needed; run it again"
            )
        return found
