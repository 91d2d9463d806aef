"""The order of the stages, and the models that stay from one picture to the next: the one loop
behind the single command, a batch, its workers and whoever else draws.

    prompts -> CLIP-L, T5 -> starting pictures -> Flux with PuLID's hooks, denoise -> autoencoder
                                  ^                 ^     larger, once more     |          |
                                  |                 '---------------------------'          |
                                  '------------- faces, where they are redrawn ------------'

Which models stay beside Flux the memory plan says; the others come for their stage and go. Who
draws, where pictures go and what becomes of one that fails is the caller's. Knows no row, no flag
and no output file.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from pulid_generate.caching.evaluation import Cache
from pulid_generate.errors import CheckpointError, PulidError
from pulid_generate.files.model import Model
from pulid_generate.kernels.trials import take_notes
from pulid_generate.models.autoencoder import Autoencoder, decode
from pulid_generate.models.upscaler import Upscaler
from pulid_generate.pictures.face_finder import FaceFinder
from pulid_generate.pictures.picture import Picture
from pulid_generate.pipeline.callers import Caller, Denoised, Item, Latent, Reports
from pulid_generate.pipeline.conditioning import Conditioner
from pulid_generate.pipeline.face_pass import FaceJob, FacePass
from pulid_generate.pipeline.fitting import Fitting
from pulid_generate.pipeline.larger_pass import LargerPass
from pulid_generate.pipeline.loaded import LoadedModels
from pulid_generate.pipeline.loading import Models
from pulid_generate.pipeline.pixels import decode_job, encode_start, picture_of, start_key
from pulid_generate.pipeline.planning import MemoryPlanner, Staying
from pulid_generate.pipeline.previewing import Previewer, PreviewSettings, watched
from pulid_generate.pipeline.prompt_encoding import PromptEncoder
from pulid_generate.pipeline.text_cache import TextCache
from pulid_generate.request.job import Job, batch_key
from pulid_generate.request.prompts.tokens import Prompt
from pulid_generate.request.step_cache import StepCache


class Engine:
    """Draws what it was told to expect. Use it in a `with`: at its end all models go."""

    def __init__(
        self,
        fitting: Fitting,
        models: Models,
        reports: Reports,
        *,
        cache: TextCache,
        staying: Staying = "nothing",
        batch: int = 1,
        compile: bool = False,
        finder: FaceFinder | None = None,
        preview: PreviewSettings | None = None,
        upscaler: Upscaler | None = None,
    ):
        """Loads nothing.

        cache: for encoded prompts. staying: what should stay beside Flux. batch: the most jobs that
        go through Flux together. compile: torch.compile Flux's blocks. finder: finds
        the faces of pictures that have a detail pass. preview: shows the pictures in work.
        upscaler: enlarges the finished ones.
        """
        self.fitting, self.models, self.reports = fitting, models, reports
        self.cache, self.batch = cache, batch
        self.planner = MemoryPlanner(fitting, models, staying=staying, batch=batch)
        self._loaded = LoadedModels(models, self.planner, reports, compile)
        self._previewer = Previewer.of(preview, models, self._loaded.autoencoder_beside)
        self._faces = FacePass(finder, reports.note, reports.log)
        self._prompts = PromptEncoder(fitting, cache, self._loaded, reports)
        # Latents to start from, of the pictures in work
        self._starts: dict[Hashable, Tensor] = {}
        self._conditions = Conditioner(fitting, self._loaded)
        self._larger = LargerPass(self._loaded, self._drawn_again)
        # caches, each with its number of steps, of which it was said that nothing was reused
        self._reused_nothing: set[tuple[StepCache, int]] = set()
        self._upscaler = upscaler
        if upscaler is not None:
            self.planner.set_aside(models.placement.name_of(Model.VAE), upscaler.bytes)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self._loaded.release_all()
        self._faces.close()

    def expect_faces(self, job: Job) -> Job:
        """Make room for a job's detail pass alone. Raises as `expect`."""
        self._faces.check(job)
        return self.planner.expect_faces(job)

    def expect(self, job: Job) -> Job:
        """Make room for such a job and its passes, and give it back with its tiles. Raises
        PlacementError if it cannot fit; PackageError, ScoringError where its faces could not be
        found; RequestError if its picture would become too large.
        """
        self._faces.check(job)
        with self._larger.expecting(job):
            if self._upscaler is not None:
                self._upscaler.settings.size_of(*job.request.final_size, self._upscaler.scale)
            return self.planner.expect(job)

    @property
    def decodes_beside(self) -> bool:
        """Whether the autoencoder stays beside Flux, so that a picture can be finished while the
        next one is denoised.
        """
        return self._loaded.stays(Model.VAE)

    @property
    def encodes_beside(self) -> bool:
        """Whether the text encoders stay beside Flux."""
        return self._loaded.stays(Model.T5)

    def lacks(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """The prompts that are not encoded yet."""
        return self._prompts.lacks(prompts)

    # ------------------------------------------------------------------------------------ the order

    def draw(
        self, batches: Sequence[Sequence[Item]], caller: Caller[Item], chunk: int | None = None
    ) -> Iterator[Denoised[Item]]:
        """Every picture as soon as it can be decoded. Items of one batch go through Flux together
        where that is possible.

        chunk: where the autoencoder cannot stay beside Flux, how many batches are denoised before
        Flux leaves and they are decoded; None for all. Raises PulidError for what stops all, such
        as a text encoder that does not fit.
        """
        if not batches:
            return
        prompts: dict[Prompt, None] = {}
        for batch in batches:
            for item in batch:
                prompts |= dict.fromkeys(caller.prompts(item))
        if not self.encodes_beside:
            # all prompts are read, and the models will want the room
            self.fitting.reader.forget_clip()
        self.encode(list(prompts))
        left = iter(batches)
        size = 1 if self.decodes_beside else chunk
        while together := list(itertools.islice(left, size)):
            with caller.holding():
                for denoised in self._draw_chunk(together, caller):
                    yield denoised.then(self._upscaled)
            if caller.stopping():
                return

    def _draw_chunk(
        self, chunk: Sequence[Sequence[Item]], caller: Caller[Item]
    ) -> Iterator[Denoised[Item]]:
        """Batches after which Flux may leave."""
        waiting: list[Latent[Item]] = []
        for pairs in self._start([caller.found(batch) for batch in chunk], caller):
            if caller.stopping():
                break
            latents = self._denoise(pairs, caller)
            if self.decodes_beside:
                yield from self._finished(latents, caller)
            else:
                waiting += latents
        if waiting:
            yield from self._finished(waiting, caller)
            self._loaded.release()

    def _start(
        self, batches: Sequence[Sequence[tuple[Item, Job]]], caller: Caller[Item]
    ) -> list[Sequence[tuple[Item, Job]]]:
        """Encode the pictures that are read, and forget earlier ones. Where the autoencoder cannot
        stay, it comes and goes before Flux loads. Batches without those whose picture cannot be
        encoded.
        """
        jobs = [job for pairs in batches for _, job in pairs]
        self._starts = {}
        try:
            self._encode_starts(jobs)
            self._conditions.encode(jobs)
        except PulidError as error:
            left = []
            for pairs in batches:
                for item, job in pairs:
                    if _reads_pictures(job):
                        caller.failed(item, error)
                left.append([pair for pair in pairs if not _reads_pictures(pair[1])])
            batches = left
        if self._loaded.keeps_flux_away:
            self._loaded.release()
        return [pairs for pairs in batches if pairs]

    def _denoise(
        self, pairs: Sequence[tuple[Item, Job]], caller: Caller[Item]
    ) -> list[Latent[Item]]:
        """The latents of those that can be drawn. Where a batch cannot go through Flux together, or
        fails, each of it is tried alone.
        """
        jobs = [job for _, job in pairs]
        # they were alike when they were announced, but files may have changed since
        if len({batch_key(job) for job in jobs}) > 1:
            return [latent for pair in pairs for latent in self._denoise([pair], caller)]
        started = time.perf_counter()
        try:
            latents = self._latents(jobs, caller.label([item for item, _ in pairs]))
        except PulidError as error:
            if len(pairs) > 1:
                return [latent for pair in pairs for latent in self._denoise([pair], caller)]
            caller.failed(pairs[0][0], error)
            return []
        seconds = (time.perf_counter() - started) / len(pairs)
        drawn = zip(pairs, latents, strict=True)
        return [Latent(item, job, latent, seconds) for (item, job), latent in drawn]

    def _finished(
        self, latents: Sequence[Latent[Item]], caller: Caller[Item]
    ) -> Iterator[Denoised[Item]]:
        """Pictures that can be decoded, after their larger pass and their detail pass."""
        latents = self._larger.finished(latents, caller)
        yield from self._decodable([latent for latent in latents if not latent.job.faces])
        with_faces = [latent for latent in latents if latent.job.faces]
        if with_faces:
            yield from self._redraw_faces(self._decodable(with_faces), caller)

    def _decodable(self, latents: Sequence[Latent[Item]]) -> Iterator[Denoised[Item]]:
        for latent in latents:
            vae = self._loaded.autoencoder()
            decode = partial(self._decode, vae, latent.latent, latent.job)
            yield Denoised(latent.item, latent.job, latent.seconds, decode)

    # ---------------------------------------------------------------------------------------- faces

    def redraw_faces(
        self, pictures: Sequence[tuple[Item, Picture]], caller: Caller[Item]
    ) -> Iterator[Denoised[Item]]:
        """The detail pass alone, of pictures that are there. Raises as `draw`."""
        prompts: dict[Prompt, None] = {}
        for item, _ in pictures:
            prompts |= dict.fromkeys(caller.prompts(item))
        self.encode(list(prompts))
        given = []
        for item, picture in pictures:
            given.append(Denoised.of(item, picture))
        for denoised in self._redraw_faces(given, caller):
            yield denoised.then(self._upscaled)

    def _redraw_faces(
        self, drawn: Iterable[Denoised[Item]], caller: Caller[Item]
    ) -> Iterator[Denoised[Item]]:
        """Decode, find faces, redraw each. Where the autoencoder cannot stay beside Flux, each of
        them comes once for all the pictures.
        """
        found = []
        for denoised in drawn:
            started = time.perf_counter()
            try:
                picture = denoised.decode()
                label, note = caller.label([denoised.item]), caller.note_of(denoised.item)
                faces = self._faces.jobs(picture, label, note)
                self._encode_starts([face.job for face in faces])
            except PulidError as error:
                caller.failed(denoised.item, error)
                continue
            denoised.seconds += time.perf_counter() - started
            found.append((denoised, picture, faces))
        if not self.decodes_beside and any(faces for _, _, faces in found):
            self._loaded.release()
        redrawn = []
        for denoised, picture, faces in found:
            started = time.perf_counter()
            try:
                latents = self._face_latents(faces, caller.label([denoised.item]))
            except PulidError as error:
                caller.failed(denoised.item, error)
                continue
            denoised.seconds += time.perf_counter() - started
            redrawn.append((denoised, picture, list(zip(faces, latents, strict=True))))
        self._starts = {}
        for denoised, picture, parts in redrawn:
            vae = self._loaded.autoencoder() if parts else None
            decode = partial(self._put_back, vae, picture, parts)
            yield Denoised(denoised.item, denoised.job, denoised.seconds, decode)

    def _face_latents(self, faces: Sequence[FaceJob], label: str) -> list[Tensor]:
        """The latents of a picture's faces, each drawn by itself: so is a face the same however
        many there are.
        """
        latents = []
        for number, face in enumerate(faces, 1):
            latents += self._latents([face.job], f"{label}, face {number} of {len(faces)}")
        return latents

    def _put_back(
        self, vae: Autoencoder | None, picture: Picture, parts: Sequence[tuple[FaceJob, Tensor]]
    ) -> Picture:
        drawn = []
        for face, latent in parts:
            assert vae is not None  # it is None where there are no parts
            with self._loaded.running(Model.VAE):
                # the picture's own mask decides what is pasted, so the crop is taken whole
                drawn.append((face, decode(vae, latent, tiling=face.job.tiling)))
        return self._faces.finished(picture, drawn)

    # -------------------------------------------------------------------------------------- prompts

    def encode(self, prompts: Sequence[Prompt]) -> None:
        """Encode the prompts that the cache does not hold. CLIP and T5 load once for all of them;
        where they cannot stay beside Flux, Flux leaves.

        Raises CheckpointError, PlacementError, and OutputError for a cache that cannot be written.
        """
        self._prompts.encode(prompts)

    # ------------------------------------------------------------------------------------- pictures

    def _encode_starts(self, jobs: Sequence[Job]) -> None:
        """The pictures that jobs start from, beside those that were encoded before."""
        started = [(job, job.start) for job in jobs if job.start is not None]
        if not started:
            return
        vae = self._loaded.autoencoder()
        with self._loaded.running(Model.VAE):
            for job, start in started:
                if start_key(job) not in self._starts:
                    self._starts[start_key(job)] = encode_start(vae, job, start)

    def _latents(self, jobs: Sequence[Job], label: str) -> list[Tensor]:
        """Latents (1, 16, H/8, W/8) float32 of jobs of one `batch_key`. Raises CheckpointError,
        PlacementError.
        """
        starts = [self._starts[start_key(job)] if job.start else None for job in jobs]
        return self._latents_from(starts, jobs, label)

    def _drawn_again(self, job: Job, start: Tensor, label: str) -> Tensor:
        [latent] = self._latents_from([start], [job], label)
        return latent

    def _latents_from(
        self, starts: Sequence[Tensor | None], jobs: Sequence[Job], label: str
    ) -> list[Tensor]:
        texts = [self._prompts.texts(job) for job in jobs]
        with self._loaded.running(Model.FLUX):
            denoiser = self._loaded.denoiser(jobs[0].loras)
            watching = watched(label, self.reports, self._previewer)
            references = self._conditions.references(jobs[0])
            controls = self._conditions.controls(jobs[0])
            latents = denoiser.latents(jobs, texts, starts, *watching, references, controls)
            if denoiser.cache is not None:
                self._tell_reuse(jobs[0], denoiser.cache, label)
        for line in take_notes():
            self.reports.note(line)
        if not torch.isfinite(latents).all():
            raise CheckpointError(
                f"{self.fitting.files.flux.path}: the denoised latents hold NaN or infinite "
                "values; a damaged file, or float16 where --dtype bfloat16 is needed"
            )
        return list(latents.split(1))

    def _tell_reuse(self, job: Job, cache: Cache, label: str) -> None:
        told = f"{cache.reused} of {cache.asked} forwards reused what others computed"
        self.reports.log(f"{label}: {told}")
        asked = job.request.step_cache
        if asked is None or cache.reused or (asked, job.steps) in self._reused_nothing:
            return
        self._reused_nothing.add((asked, job.steps))
        self.reports.note(
            f"{label}: --cache-mode {asked.mode} reused nothing: {asked.why_nothing(job.steps)}"
        )

    def _upscaled(self, picture: Picture) -> Picture:
        """The finished picture as large as it is wanted."""
        if self._upscaler is None:
            return picture
        with self._loaded.running(Model.VAE):
            device = self.models.placement.device_of(Model.VAE)
            return replace(picture, pixels=self._upscaler.enlarged(picture.pixels, device))

    def _decode(self, vae: Autoencoder, latent: Tensor, job: Job) -> Picture:
        with self._loaded.running(Model.VAE):
            pixels = decode_job(vae, latent, job)
        place, compute = self.models.placement, self.models.compute
        return picture_of(job, pixels, self.fitting, place, compute)


def _reads_pictures(job: Job) -> bool:
    """Whether the autoencoder has to read something for it."""
    return job.start is not None or bool(job.conditions)
