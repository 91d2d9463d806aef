"""From requests to pictures: the only file that knows the order of the stages and which device each
model runs on.

    prompts -> CLIP-L, T5 -> (freed) -> Flux with PuLID's hooks, denoise every job -> (freed) ->
    autoencoder -> pictures

Whether the files belong together is read from their headers, before the first weight. Knows nothing
of flags, exit codes or output files.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pulid_extract.shared.embedding_file import Embedding
from pulid_extract.shared.model_files import Found
from pulid_generate.errors import CheckpointError, PlacementError, RequestError
from pulid_generate.files.model import Model
from pulid_generate.files.model_set import ModelFiles
from pulid_generate.files.storage import quality_notes
from pulid_generate.injection.compiling import check_compiler, compile_blocks
from pulid_generate.lora.files import resolve
from pulid_generate.lora.hooks import attach_lora_files
from pulid_generate.lora.names import flux_layers
from pulid_generate.memory.devices import available_on, give_back_memory
from pulid_generate.memory.placement import Placement
from pulid_generate.memory.plan import MeasureKind, Plan, Work
from pulid_generate.memory.planning import make_plan
from pulid_generate.models.autoencoder import decode, encode
from pulid_generate.models.clip import ClipText
from pulid_generate.models.t5 import T5Text, t5_length
from pulid_generate.packed.ggml import Compute
from pulid_generate.pictures.description import describe
from pulid_generate.pictures.picture import Picture
from pulid_generate.pipeline.denoiser import IDENTITIES_KEPT, Denoiser
from pulid_generate.pipeline.fitting import Fitting, tiling_of
from pulid_generate.pipeline.loading import Models
from pulid_generate.pipeline.texts import Texts, TextStates
from pulid_generate.request.generation import (
    DEFAULT_TILE_OVERLAP,
    DEFAULT_TILE_SIZE,
    GenerationRequest,
)
from pulid_generate.request.job import Job, LoraUse, StartPicture, Subject
from pulid_generate.request.start_picture import paste
from pulid_generate.sampling.noise import make_noise
from pulid_generate.version import __version__

if TYPE_CHECKING:
    import numpy as np
from pulid_generate.pipeline.texts import Prompt, prompts_of

Log = Callable[[str], None]
OnStep = Callable[[str, int, int], None]  # label of the picture, steps done, steps in all


class Pipeline:
    """Draws jobs with one set of model files. Nothing is loaded until `draw`, and each model only
    while it is needed.
    """

    def __init__(
        self,
        files: ModelFiles,
        placement: Placement,
        log: Log = lambda text: None,
        on_step: OnStep = lambda label, done, total: None,
        *,
        note: Log | None = None,
        dequantize: bool = False,
        compile: bool = False,
        compute: Compute = "float",
        weight_cache: int = 0,
    ):
        """Checks from headers alone that the files belong together. Raises CheckpointError,
        IdentityError or WeightsError.

        dequantize: widen packed matrices (GGUF, fp8) once, when they load. compile: torch.compile
        Flux's blocks. compute, weight_cache: see `loading.Models`.
        """
        self.files, self.placement, self.log, self.on_step = files, placement, log, on_step
        self.note = note or log
        self.compile = compile
        if compile:
            check_compiler(placement.device)
            if compute == "int8":
                raise RequestError(
                    "compute int8: compiled blocks multiply in floating point; leave out --compile or --compute int8"
                )
            if weight_cache:
                raise RequestError(
                    "weight-cache: compiled blocks keep no widened weights; leave out --compile or --weight-cache"
                )
        self.fitting = Fitting(files)
        self.models = Models(
            files, placement, dequantize=dequantize, compute=compute, weight_cache=weight_cache
        )
        for found, model in ((files.flux, Model.FLUX), (files.t5xxl, Model.T5)):
            for line in quality_notes(found.header, model.marker):
                self.note(line)

    @property
    def dev(self) -> bool:
        """True for a guidance-distilled model (dev), False for schnell."""
        return self.fitting.dev

    def jobs(
        self,
        request: GenerationRequest,
        subjects: Embedding | Sequence[Subject] | None = None,
        start: StartPicture | None = None,
        loras: Sequence[LoraUse] = (),
    ) -> list[Job]:
        """The request's pictures for these files: see `Fitting.jobs`."""
        return self.fitting.jobs(request, subjects, start, loras)

    def t5_lengths(self, job: Job) -> tuple[int, ...]:
        """As `Texts.lengths`, known before anything is encoded. Raises RequestError for a prompt
        that is too long.
        """
        return tuple(
            t5_length(self.models.t5_words, prompt.text, prompt.length, prompt.weighted)
            for prompt in prompts_of(job)
        )

    def plan(
        self,
        jobs: Sequence[Job],
        *,
        batch: int = 1,
        extra: int = 0,
        kept: int = 2 * IDENTITIES_KEPT,
        available: Mapping[str, int] | None = None,
    ) -> Plan:
        """What these jobs need where, from headers alone.

        batch: that go through Flux together. extra: bytes of what else is on its device. kept:
        identities that stay folded at most. available: by device; None looks now.
        """
        largest = max(
            (job.request for job in jobs), key=lambda request: request.width * request.height
        )
        people = {
            subject.embedding.sha256: subject.embedding for job in jobs for subject in job.subjects
        }.values()
        negative = any(
            job.request.cfg_scale != 1 and job.request.negative_id == "uncond" for job in jobs
        )
        tokens = [len(person.tokens) for person in people]
        tokens += [
            len(person.uncond) for person in people if negative and person.uncond is not None
        ]
        tile = tiling_of(largest) if all(job.request.vae_tiling for job in jobs) else None
        work = Work(
            largest.width,
            largest.height,
            t5_tokens=max(length for job in jobs for length in self.t5_lengths(job)),
            id_tokens=tuple(tokens[:kept]),
            tile=(tile.width, tile.height) if tile else None,
            init_image=any(job.start for job in jobs),
            dequantize=self.models.dequantize,
            batch=batch,
            extra=self._lora_bytes(jobs) + self.models.weight_cache + extra,
        )
        available = available or available_on(self.placement.devices)
        return make_plan(self.files, work, self.placement, available)

    def adopt(self, plan: Plan) -> None:
        """Load models as this plan has it from now on. Raises PlacementError if they cannot fit."""
        plan.check()
        self.models.plan = plan
        for line in plan.notes():
            self.note(line)
        if self.compile and plan.stage(Model.FLUX).has(MeasureKind.STREAMED):
            raise PlacementError(
                "compile: blocks that stream through the device cannot be compiled; leave out --compile, or --offload-to-cpu and --max-vram"
            )

    @staticmethod
    def tiled(job: Job, plan: Plan) -> Job:
        """The job with the tiles that its plan chose: they change pixels slightly, so the picture's
        metadata must tell of them.
        """
        if plan.tile is None or job.request.vae_tiling:
            return job
        tiles: dict[str, Any] = {
            "vae_tiling": True,
            "vae_tile_size": DEFAULT_TILE_SIZE,
            "vae_tile_overlap": DEFAULT_TILE_OVERLAP,
        }
        return replace(job, request=replace(job.request, **tiles))

    def _lora_bytes(self, jobs: Sequence[Job]) -> int:
        """Of the matrices of the LoRAs that are on at once, in the compute dtype."""
        width, layers = torch.finfo(self.placement.dtype).bits // 8, flux_layers(self.fitting.shape)
        numbers = [
            sum(
                product.down.numel() + product.up.numel()
                for lora in job.loras
                for product in resolve(self.fitting.loras[lora.path], Model.FLUX, layers).values()
            )
            for job in jobs
        ]
        return width * max(numbers)

    def draw(self, jobs: Sequence[Job]) -> Iterator[Picture]:
        """Every job's picture, in order. Raises CheckpointError, and RequestError for a prompt that
        is too long.
        """
        for job in jobs:
            self.t5_lengths(job)  # a prompt that is too long is said before anything loads
        plan = self.plan(jobs)
        self.adopt(plan)
        jobs = [self.tiled(job, plan) for job in jobs]
        texts = self._encode_texts(jobs)
        starts = (
            self.stage(Model.VAE, self.encode_starts, jobs)
            if any(job.start for job in jobs)
            else {}
        )
        latents = self.stage(Model.FLUX, self._denoise, jobs, texts, starts)
        lengths = [text.lengths for text in texts]
        texts.clear()
        vae = self.stage(Model.VAE, self.models.vae)
        for job, latent, t5_lengths in zip(jobs, latents, lengths, strict=True):
            yield self.decode(vae, latent, job, t5_lengths)

    # --------------------------------------------------------------------------------------- stages

    def stage(self, name: Model, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run one stage. `work` loads its own model, so that its return drops the last reference:
        memory is free before the next load.
        """
        self.log(f"loading {name}")
        try:
            with torch.inference_mode():
                return self.guarded(name, work, *arguments)
        finally:
            give_back_memory()

    def guarded(
        self, name: Model, work: Callable[..., Any], *arguments: Any, **options: Any
    ) -> Any:
        """Call `work`; running out of memory becomes a line that names the flags which help."""
        try:
            return work(*arguments, **options)
        except (torch.OutOfMemoryError, MemoryError):
            raise self._out_of_memory(name) from None
        except RuntimeError as error:  # the CPU's allocator and mps raise a plain one
            if "allocate memory" not in str(error) and "out of memory" not in str(error):
                raise
            raise self._out_of_memory(name) from None

    def _out_of_memory(self, name: Model) -> PlacementError:
        helps, only_beside_a_cpu = {
            Model.VAE: ("--vae-tiling, a smaller picture", "--vae-on-cpu"),
            Model.FLUX: ("a GGUF file, a smaller picture", "--offload-to-cpu"),
        }.get(name, ("a smaller t5xxl file", "--clip-on-cpu, --offload-to-cpu"))
        where = self.placement.device_of(name)
        if where.type != "cpu":
            helps = f"{only_beside_a_cpu}, {helps}"
        return PlacementError(f"{name}: out of memory on {where}; try {helps}")

    def _encode_texts(self, jobs: Sequence[Job]) -> list[Texts]:
        """What Flux reads of every job's prompts. CLIP comes and goes, then T5."""
        read: dict[Prompt, TextStates] = {}
        self.encode(
            list(dict.fromkeys(prompt for job in jobs for prompt in prompts_of(job))),
            read.__setitem__,
        )
        return [Texts(*(read[prompt] for prompt in prompts_of(job))) for job in jobs]

    def encode(
        self,
        prompts: Sequence[Prompt],
        keep: Callable[[Prompt, TextStates], None],
        clip: ClipText | None = None,
        t5: T5Text | None = None,
    ) -> None:
        """What Flux reads of each prompt goes to `keep` as soon as it is there. An encoder that is
        not given comes and goes.

        Raises CheckpointError, and RequestError for a prompt that is too long.
        """
        pooled = self.stage(Model.CLIP, self._pool, prompts, clip)
        self.stage(Model.T5, self._encode, prompts, pooled, keep, t5)

    def _pool(self, prompts: Sequence[Prompt], clip: ClipText | None) -> dict[Prompt, Tensor]:
        """CLIP's vector (1, P) of every prompt, in the compute dtype on the main device."""
        clip = clip or self.models.clip()
        device = self.placement.text_device
        pooled = {}
        for loras, group in groupby(prompts, lambda prompt: prompt.loras):
            with self._attached(
                clip.model, Model.CLIP, loras, self.placement.dtype_on(device), device
            ):
                for prompt in group:
                    vector = (
                        clip.encode_weighted(prompt.text)
                        if prompt.weighted
                        else clip.encode(prompt.text, self.note)
                    )
                    _check_finite(vector, self.files.clip_l)
                    pooled[prompt] = vector.to(self.placement.device, self.placement.dtype)
        return pooled

    def _encode(
        self,
        prompts: Sequence[Prompt],
        pooled: dict[Prompt, Tensor],
        keep: Callable[[Prompt, TextStates], None],
        t5: T5Text | None,
    ) -> None:
        """T5's states (1, T, C) of every prompt, in the compute dtype on the main device."""
        t5 = t5 or self.models.t5()
        for loras, group in groupby(prompts, lambda prompt: prompt.loras):
            with self._attached(
                t5.model, Model.T5, loras, self.models.t5_dtype, self.placement.text_device
            ):
                for prompt in group:
                    ids = (
                        None
                        if prompt.weighted
                        else t5.tokens(prompt.text, prompt.length, self.note)
                    )
                    tokens = t5.encode_weighted(prompt.text) if ids is None else t5.encode(ids)
                    _check_finite(tokens, self.files.t5xxl)
                    keep(
                        prompt,
                        TextStates(
                            tokens.to(self.placement.device, self.placement.dtype), pooled[prompt]
                        ),
                    )

    def encode_starts(self, jobs: Sequence[Job], vae: Any = None) -> dict[Hashable, Tensor]:
        """The latents (1, 16, H/8, W/8) of every picture to start from, by `start_key`. Call it in
        a `stage`.
        """
        vae = vae or self.models.vae()
        latents = {}
        for job in jobs:
            if job.start is not None and start_key(job) not in latents:
                # of a batch, sd-cli's: the sample is the first seed's for every picture
                request = job.request
                noise = make_noise(request.seed, request.width, request.height, request.rng)
                latents[start_key(job)] = encode(
                    vae, job.start.pixels, noise=noise, tiling=tiling_of(job.request)
                )
        return latents

    def _denoise(
        self, jobs: Sequence[Job], texts: Sequence[Texts], starts: dict[Hashable, Tensor]
    ) -> list[Tensor]:
        """Latents (1, 16, H/8, W/8), float32, of every job."""
        denoiser = self.load_denoiser()
        latents: list[Tensor] = []
        with self.compiled(denoiser):
            for loras, group in groupby(zip(jobs, texts, strict=True), lambda pair: pair[0].loras):
                with self.with_loras(denoiser, loras):
                    for job, text in group:
                        label = (
                            f"picture {len(latents) + 1} of {len(jobs)}"
                            if len(jobs) > 1
                            else "denoise"
                        )
                        latents += self.latents(denoiser, [job], [text], starts, label)
        return latents

    def load_denoiser(self, kept: int = 2 * IDENTITIES_KEPT) -> Denoiser:
        """Flux, loaded. Call it in a `stage`. kept: folded identities that stay."""
        return Denoiser(
            self.models.flux(),
            self.fitting.adapter,
            self.placement.device,
            self.placement.dtype,
            self.dev,
            kept,
        )

    def compiled(self, denoiser: Denoiser) -> AbstractContextManager[None]:
        """Flux's blocks compiled, if that was asked for."""
        return compile_blocks(denoiser.flux) if self.compile else nullcontext()

    def with_loras(
        self, denoiser: Denoiser, loras: Sequence[LoraUse]
    ) -> AbstractContextManager[None]:
        """The LoRAs on Flux."""
        return self._attached(
            denoiser.flux, Model.FLUX, loras, self.placement.dtype, self.placement.device
        )

    def latents(
        self,
        denoiser: Denoiser,
        jobs: Sequence[Job],
        texts: Sequence[Texts],
        starts: dict[Hashable, Tensor],
        label: str,
    ) -> list[Tensor]:
        """Latents (1, 16, H/8, W/8), float32, of jobs of one `batch_key`, which go through Flux
        together. Raises CheckpointError.
        """
        start = [starts[start_key(job)] if job.start is not None else None for job in jobs]
        latents = denoiser.latents(jobs, texts, start, partial(self.on_step, label))
        if not torch.isfinite(latents).all():
            raise CheckpointError(
                f"{self.files.flux.path}: the denoised latents hold NaN or infinite values; a damaged file, or "
                "float16 where --dtype bfloat16 is needed"
            )
        return list(latents.split(1))

    def decode(self, vae: Any, latent: Tensor, job: Job, t5_lengths: tuple[int, ...]) -> Picture:
        """The picture of a job's latent. t5_lengths: as `Texts.lengths`."""
        return Picture(
            job,
            self.guarded(Model.VAE, _decode, vae, latent, job),
            self.describe(job, t5_lengths),
        )

    def _attached(
        self,
        model: Any,
        kind: Model,
        loras: Sequence[LoraUse],
        dtype: torch.dtype,
        device: torch.device,
    ):
        """The part of the LoRAs that is for this model, while it runs."""
        return attach_lora_files(
            model,
            kind,
            [(self.fitting.loras[lora.path], lora.weight) for lora in loras],
            dtype,
            device,
        )

    def describe(self, job: Job, t5_lengths: tuple[int, ...]) -> str:
        """The text that a job's picture carries, known before it is drawn."""
        return describe(
            job,
            t5_lengths=t5_lengths,
            dev=self.dev,
            models={
                name: getattr(self.files, name).name for name in ("flux", "vae", "clip_l", "t5xxl")
            },
            arithmetic=_arithmetic(self.placement, self.models.compute),
            pulid=self.files.pulid.name if self.files.pulid else None,
            version=__version__,
        )


def _arithmetic(placement: Placement, compute: Compute) -> str:
    """Flux's, and the other models' where a CPU beside a GPU makes it another."""
    kinds = {
        "": placement.dtype,
        " text ": placement.dtype_on(placement.text_device),
        " vae ": placement.dtype_on(placement.vae_device),
    }
    told = "".join(
        name + str(kind).removeprefix("torch.")
        for name, kind in kinds.items()
        if not name or kind != placement.dtype
    )
    return told + (" int8" if compute == "int8" else "")


def start_key(job: Job) -> Hashable:
    return (
        (job.start.sha256, job.request.seed, job.request.rng, tiling_of(job.request))
        if job.start is not None
        else None
    )


def _decode(vae: Any, latent: Tensor, job: Job) -> np.ndarray:
    pixels = decode(vae, latent, tiling=tiling_of(job.request))
    if job.start is not None and job.start.mask is not None:
        pixels = paste(pixels, job.start.pixels, job.start.mask)
    return pixels


def _check_finite(states: Tensor, found: Found) -> None:
    if not torch.isfinite(states).all():
        raise CheckpointError(
            f"{found.path}: gives NaN or infinite states; the file is damaged, download it again"
        )
