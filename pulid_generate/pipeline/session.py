"""Models that stay while many jobs are drawn: as many of them side by side as the memory plan
allows.

The stages and their order within a picture are the pipeline's. Here stands what stays between
pictures: text states in a cache, Flux with its LoRAs and folded identities, the autoencoder; in a
worker (serving) the text encoders as well, if all fit together. Where the autoencoder does not fit
beside Flux, whoever draws decodes a whole chunk after Flux has left. Knows no row, no flag and no
output file.
"""

from __future__ import annotations

import platform
from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from pulid_generate.errors import CheckpointError, PlacementError
from pulid_generate.files.model import Model
from pulid_generate.memory.devices import available_on, give_back_memory
from pulid_generate.memory.plan import Plan
from pulid_generate.pictures.picture import Picture
from pulid_generate.pipeline.denoiser import Denoiser
from pulid_generate.pipeline.pipeline import Pipeline
from pulid_generate.pipeline.text_cache import TextCache, file_identity, key_of
from pulid_generate.pipeline.texts import Prompt, Texts, TextStates, prompts_of
from pulid_generate.request.job import Job, LoraUse
from pulid_generate.version import __version__

# of whom the plan makes room: no more folded identities are kept (denoiser.IDENTITIES_KEPT, both
# branches)
PEOPLE_COUNTED = 16
SIDE_BY_SIDE = (
    (Model.CLIP, Model.T5, Model.VAE),
    (Model.VAE,),
    (),
)  # what may stay beside Flux, the best first


class Session:
    """Draws jobs of one pipeline. Announce them with `expect`, encode their prompts with `encode`,
    then `latents` and `decode`.

    batch: the most jobs that go through Flux together. serving: prompts come one by one, so that
    text encoders should stay. `decode` may run in another thread than the rest.
    """

    def __init__(
        self, pipeline: Pipeline, cache: TextCache, *, batch: int = 1, serving: bool = False
    ):
        self.pipeline, self.cache, self.batch, self.serving = pipeline, cache, batch, serving
        place = pipeline.placement
        # before anything of ours is loaded
        self.available = available_on(place.devices)
        self.beside: frozenset[Model] = frozenset()
        self._kinds: dict[Hashable, tuple[Job, Plan]] = {}
        self._people: dict[str, Job] = {}
        self.kept = PEOPLE_COUNTED  # folded identities that the plan makes room for
        self._fewest = 1  # that one batch needs at once
        self._plan: Plan | None = None
        self._stale = True
        self._denoiser: Denoiser | None = None
        self._vae: Any = None
        self._clip: Any = None
        self._t5: Any = None
        self._compiled, self._with_loras = ExitStack(), ExitStack()
        self._loras: tuple[LoraUse, ...] = ()
        self._starts: dict[Hashable, Tensor] = {}

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()
        self._clip = self._t5 = None

    # ------------------------------------------------------------------------------------- planning

    def expect(self, job: Job) -> Job:
        """Make room for such a job, and give it back with the tiles that it alone would get. Raises
        PlacementError if it cannot fit.
        """
        kind = _kind(job)
        if kind not in self._kinds:
            plan = self.pipeline.plan([job], available=self.available)
            plan.check()
            self._kinds[kind] = job, plan
            self._stale = True
        branches = 2 if job.request.cfg_scale != 1 else 1
        self._fewest = max(self._fewest, self.batch * branches * len(job.subjects))
        for subject in job.subjects:
            if subject.embedding.sha256 not in self._people and len(self._people) < PEOPLE_COUNTED:
                self._people[subject.embedding.sha256] = job
                self._stale = True
        return self.pipeline.tiled(job, self._kinds[kind][1])

    @property
    def keeps_autoencoder(self) -> bool:
        """Whether the autoencoder stays beside Flux."""
        self._replan()
        return Model.VAE in self.beside

    @property
    def keeps_encoders(self) -> bool:
        """Whether the text encoders stay beside Flux."""
        self._replan()
        return Model.T5 in self.beside

    def _replan(self) -> None:
        """Decide what stays beside Flux. What is loaded stays, unless it would have to be loaded
        otherwise.
        """
        if not self._stale:
            return
        jobs = [*(job for job, _ in self._kinds.values()), *self._people.values()]
        self.kept = max(PEOPLE_COUNTED, self._fewest)
        base = self.pipeline.plan(jobs, batch=self.batch, kept=self.kept, available=self.available)
        # identities that do not fit are folded anew when their turn comes
        while base.problem and self.kept > self._fewest:
            self.kept = max(self.kept // 2, self._fewest)
            base = self.pipeline.plan(
                jobs, batch=self.batch, kept=self.kept, available=self.available
            )
        if base.problem and self.batch > 1:
            raise PlacementError(f"--batch-size {self.batch}: {base.problem}")
        plan, beside = base, frozenset[Model]()
        for names in SIDE_BY_SIDE if self.serving else SIDE_BY_SIDE[1:]:
            extra = _bytes_beside(base, names)
            plan = self.pipeline.plan(
                jobs, batch=self.batch, extra=extra, kept=self.kept, available=self.available
            )
            # text encoders are not worth a slower Flux; the autoencoder is worth it, else Flux
            # would have to leave and come back
            slower = Model.T5 in names and (plan.sixteen_bit, plan.resident) != (
                base.sixteen_bit,
                base.resident,
            )
            if not plan.problem and not slower and _fits_elsewhere(plan, names):
                beside = frozenset(names)
                break
        before = self._plan
        if before is not None and (before.sixteen_bit, before.resident, self.beside) == (
            plan.sixteen_bit,
            plan.resident,
            beside,
        ):
            self._stale = False
            return
        self.release()
        self._clip = self._t5 = None
        self.pipeline.adopt(plan)
        self._plan, self.beside, self._stale = plan, beside, False

    # ----------------------------------------------------------------------------------------- text

    def encode(self, jobs: Sequence[Job]) -> None:
        """Encode the prompts that the cache does not hold. T5 loads once for all of them; where it
        cannot stay beside Flux, Flux leaves.

        Raises CheckpointError, and OutputError for a cache that cannot be written.
        """
        self.encode_prompts(
            list(dict.fromkeys(prompt for job in jobs for prompt in prompts_of(job)))
        )

    def encode_prompts(self, prompts: Sequence[Prompt]) -> None:
        """As `encode`."""
        self._replan()
        missing = self.lacks(prompts)
        if not missing:
            return
        if Model.T5 in self.beside:
            self._clip = self._clip or self.pipeline.stage(Model.CLIP, self.pipeline.models.clip)
            self._t5 = self._t5 or self.pipeline.stage(Model.T5, self.pipeline.models.t5)
        else:
            self.release()
        self.pipeline.encode(missing, self._keep, self._clip, self._t5)

    def lacks(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Those that the cache does not hold."""
        return [prompt for prompt in prompts if self._key(prompt) not in self.cache]

    def _keep(self, prompt: Prompt, states: TextStates) -> None:
        tensors = {"t5": states.t5, "pooled": states.pooled}
        self.cache.put(
            self._key(prompt),
            save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}),
        )

    def _texts(self, job: Job) -> Texts:
        found = []
        for prompt in prompts_of(job):
            data = self.cache.get(self._key(prompt))
            if data is None:  # damaged, or another process has made room
                self.encode_prompts([prompt])
                data = self.cache.get(self._key(prompt))
            if data is None:
                raise CheckpointError(
                    "an encoded prompt was taken out of the cache while it was needed; run it again"
                )
            tensors = {
                name: tensor.to(self.pipeline.placement.device)
                for name, tensor in load(data).items()
            }
            found.append(TextStates(tensors["t5"], tensors["pooled"]))
        return Texts(*found)

    def _key(self, prompt: Prompt) -> str:
        loras = [(lora.sha256, lora.weight) for lora in prompt.loras]
        return key_of(
            {
                **self._encoders,
                "text": prompt.text,
                "length": prompt.length,
                "weighted": prompt.weighted,
                "loras": loras,
            }
        )

    @cached_property
    def _encoders(self) -> dict[str, Any]:
        """What all states depend on beside their prompt; rounding differs between machines and
        versions.
        """
        files, place = self.pipeline.files, self.pipeline.placement
        device = place.text_device
        name = (
            torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"{platform.machine()} {platform.processor()}"
        )
        return {
            "clip_l": file_identity(files.clip_l.header, files.clip_l.path),
            "t5xxl": file_identity(files.t5xxl.header, files.t5xxl.path),
            "tokenizer": [
                files.t5_tokenizer.name,
                files.t5_tokenizer.stat().st_size,
                files.t5_tokenizer.stat().st_mtime_ns,
            ],
            "dtypes": [str(place.dtype), str(place.dtype_on(device))],
            "machine": [
                device.type,
                name,
                torch.backends.cpu.get_cpu_capability(),
                torch.get_num_threads(),
            ],
            "versions": [__version__, torch.__version__],
        }

    # ------------------------------------------------------------------------------------- pictures

    def encode_starts(self, jobs: Sequence[Job]) -> None:
        """Encode the pictures that these jobs start from, and forget earlier ones. Where the
        autoencoder cannot stay, before Flux loads.
        """
        started = [job for job in jobs if job.start is not None]
        self._starts = {}
        if not started:
            return
        if not self.keeps_autoencoder:
            self.release()
        self._starts = self.pipeline.stage(
            Model.VAE, self.pipeline.encode_starts, started, self.load_autoencoder()
        )
        if not self.keeps_autoencoder:
            self.release()

    def latents(self, jobs: Sequence[Job], label: str) -> list[tuple[Tensor, tuple[int, ...]]]:
        """(latent, T5 tokens) of jobs of one `batch_key`, whose starts are encoded. Raises
        PulidError.
        """
        texts = [self._texts(job) for job in jobs]
        with torch.inference_mode():
            denoiser = self._with(jobs[0].loras)
            latents = self.pipeline.guarded(
                Model.FLUX, self.pipeline.latents, denoiser, jobs, texts, self._starts, label
            )
        return [(latent, text.lengths) for latent, text in zip(latents, texts, strict=True)]

    def _with(self, loras: tuple[LoraUse, ...]) -> Denoiser:
        """Flux with these LoRAs on it."""
        self._replan()
        if self._denoiser is None:
            self._denoiser = self.pipeline.stage(Model.FLUX, self.pipeline.load_denoiser, self.kept)
            self._compiled.enter_context(self.pipeline.compiled(self._denoiser))
            self._loras = ()
        if loras != self._loras:
            self._with_loras.close()
            self._loras = ()
            self._with_loras.enter_context(self.pipeline.with_loras(self._denoiser, loras))
            self._loras = loras
        return self._denoiser

    def load_autoencoder(self) -> Any:
        """The autoencoder. Where it cannot stay beside Flux, Flux leaves."""
        if self._vae is None:
            if not self.keeps_autoencoder:
                self.release()
            self._vae = self.pipeline.stage(Model.VAE, self.pipeline.models.vae)
        return self._vae

    def decode(self, vae: Any, latent: Tensor, job: Job, t5_lengths: tuple[int, ...]) -> Picture:
        """The picture. vae: what `load_autoencoder` gave when the latent was made: it may have left
        the session since. Raises PlacementError.
        """
        with torch.inference_mode():
            return self.pipeline.decode(vae, latent, job, t5_lengths)

    def release(self) -> None:
        """Let Flux and the autoencoder go."""
        self._with_loras.close()
        self._compiled.close()
        self._denoiser = self._vae = None
        give_back_memory()


def _kind(job: Job) -> Hashable:
    """Jobs of one kind need the same memory, people aside."""
    request = job.request
    tiles = (request.vae_tile_size, request.vae_tile_overlap) if request.vae_tiling else None
    negative = request.cfg_scale != 1 and request.negative_id == "uncond"
    return (
        request.width,
        request.height,
        request.t5_max_length,
        tiles,
        negative,
        job.start is not None,
        job.loras,
    )


def _bytes_beside(plan: Plan, names: Sequence[Model]) -> int:
    """What these stages take on Flux's device."""
    device = plan.stage(Model.FLUX).device
    return sum(stage.needs.get(device, 0) for stage in plan.stages if stage.model in names)


def _fits_elsewhere(plan: Plan, names: Sequence[Model]) -> bool:
    """Whether Flux and these stages fit together on the other devices; on Flux's own, the plan has
    seen to it.
    """
    flux = plan.stage(Model.FLUX)
    together = [stage for stage in plan.stages if stage.model in (*names, Model.FLUX)]
    return all(
        sum(stage.needs.get(device, 0) for stage in together) <= have
        for device, have in plan.available.items()
        if device != flux.device
    )
