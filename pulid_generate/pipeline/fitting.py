"""Requests fitted to one set of model files: jobs, or the reason why there can be none. From
headers and tokenizers alone, before the first weight.

Knows no device, no flag and loads no model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pulid_extract.shared.embedding_file import Embedding
from pulid_extract.shared.model_files import FoundFile
from pulid_extract.shared.model_files.transfer import file_sha256
from pulid_generate.control.files import ControlFiles
from pulid_generate.errors import CheckpointError, IdentityError, InputError, RequestError
from pulid_generate.files.kontext import is_kontext
from pulid_generate.files.layouts import FluxShape
from pulid_generate.files.model import Model
from pulid_generate.files.model_set import ModelFiles
from pulid_generate.files.storage import Marker, check_storage, part_of, width_of
from pulid_generate.injection.adapter import PulidAdapter
from pulid_generate.injection.hooks import check_fit
from pulid_generate.injection.layer_skip import check_layers
from pulid_generate.lora.files import LoraFile, left_out, read_lora, resolve
from pulid_generate.lora.names import flux_layers
from pulid_generate.models.autoencoder import has_encoder
from pulid_generate.models.flux import flux_shape
from pulid_generate.models.prompt_reader import PromptReader
from pulid_generate.models.tiny_autoencoder import is_tiny
from pulid_generate.request.conditions.bundle import NO_CONDITIONS, Conditions
from pulid_generate.request.generation import MAX_STEPS, GenerationRequest, close_up, enlarged
from pulid_generate.request.job import Job, StartPicture, Subject
from pulid_generate.request.passes.detail import prompts_of
from pulid_generate.request.passes.enlarging import enlarged_conditions
from pulid_generate.request.prompts.tokens import LoraUse, Prompt
from pulid_generate.sampling.schedules import cut_schedule, make_schedule, schedule_mu

DEV_STEPS, SCHNELL_STEPS = 20, 4
# of the states of T5-XXL, which every published Flux takes; narrower ones are a small world's, and
# prompts of how many tokens that has learnt (docs/micro_world.md)
XXL_WIDTH, SMALL_WORLD_TOKENS = 4096, 32


class Fitting:
    """What the files say about the model, and what can be drawn with it."""

    def __init__(self, files: ModelFiles, kontext: bool = False):
        """Checks that the files belong together. kontext: Flux is said to be Kontext. Raises
        CheckpointError, IdentityError or WeightsError.
        """
        self.files = files
        self.kontext = kontext or is_kontext(files.flux.header) == "yes"
        # Flux's sizes
        self.shape: FluxShape = flux_shape(files.flux.header)
        # PuLID's layers; None without that file
        self.adapter = PulidAdapter.load(files.pulid.path) if files.pulid else None
        # What jobs have asked for, matrices memory-mapped
        self.loras: dict[Path, LoraFile] = {}
        self.controls = ControlFiles(self.shape, files.flux.path)
        # For the pictures' metadata: what enlarges finished ones, and a tiny autoencoder
        self.upscale: dict[str, Any] | None = None
        self.tae: dict[str, Any] | None = None
        if is_tiny(files.vae.header):
            self.tae = {"name": files.vae.name, "sha256": file_sha256(files.vae.path)}
        # Of models that enlarge a picture between two passes
        self._hashes: dict[Path, str] = {}
        self._notes: list[str] = []
        small = self.shape.context < XXL_WIDTH
        self.reader = PromptReader(files.t5_tokenizer, SMALL_WORLD_TOKENS if small else None)
        if self.adapter is not None:
            shape, where = self.shape, str(files.flux.path)
            check_fit(self.adapter, shape.width, shape.double, shape.single, where)
        self._check_width(files.clip_l, Model.CLIP.marker, self.shape.pooled, "clip_l.safetensors")
        self._check_width(
            files.t5xxl, Model.T5.marker, self.shape.context, "t5xxl_fp16.safetensors"
        )

    @property
    def dev(self) -> bool:
        """True for a guidance-distilled model (dev), False for schnell."""
        return self.shape.guidance

    def job(
        self,
        request: GenerationRequest,
        subjects: Embedding | Sequence[Subject] | None = None,
        start: StartPicture | None = None,
        loras: Sequence[LoraUse] = (),
        conditions: Conditions = NO_CONDITIONS,
    ) -> Job:
        """The request's first picture; `Job.numbered` gives the others.

        subjects: who is in it; an embedding alone is one person over the whole picture, with the
        request's weight and schedule. start: what it starts from. Raises RequestError for a prompt
        that is too long and for a part that would silently do nothing, IdentityError, WeightsError
        for a LoRA that does not fit.
        """
        if isinstance(subjects, Embedding):
            subjects = [Subject(subjects, request.id_weight, request.id_schedule)]
        times = request.sigmas or self._times(request)
        steps = len(times) - 1
        with self._naming_default_steps(request, steps):
            if start is not None:
                times = _cut(times, request, start)
                steps = len(times) - 1
            request.check_steps(steps)
            for subject in subjects or ():
                subject.schedule.check(steps, subject.embedding.source)
            for use in conditions.controls:
                use.check(steps)
        blocks = self.shape.double + self.shape.single
        if request.skip_guidance.scale:
            check_layers(request.skip_guidance.layers, blocks)
        if request.step_cache is not None:
            request.step_cache.check_blocks(blocks, str(self.files.flux.path))
        for subject in subjects or ():
            self._check_identity(request, subject.embedding)
        self._check_loras(loras)
        self._check_references(conditions)
        if conditions.controls:
            controls = self.controls.fitted(conditions.controls)
            conditions = replace(conditions, controls=controls)
        self._check_encoder(request, start, conditions)
        request = self._with_hash(request)
        job = Job(
            request,
            request.seed,
            times,
            prompts=self._prompts(request, tuple(loras)),
            subjects=tuple(subjects or ()),
            start=start,
            conditions=conditions,
            loras=tuple(loras),
            tiling=request.tiling(),
            faces=self._faces(request, tuple(subjects or ()), tuple(loras)),
            draws_before_references=int(start is not None),
        )
        return replace(job, larger=self._larger(job)) if request.hires is not None else job

    # ---------------------------------------------------------------------------------------- parts

    def _with_hash(self, request: GenerationRequest) -> GenerationRequest:
        """With the hash of the model that enlarges its picture. Raises WeightsError."""
        hires = request.hires
        if hires is None or hires.model is None:
            return request
        if hires.model not in self._hashes:
            self._hashes[hires.model] = file_sha256(hires.model)
        sha256 = self._hashes[hires.model]
        return replace(request, hires=replace(hires, model_sha256=sha256))

    def _larger(self, job: Job) -> Job:
        """The second pass over a job's picture: see `Job.larger`. Raises RequestError."""
        hires = job.request.hires
        assert hires is not None
        if job.start is not None and job.start.mask is not None:
            raise RequestError(
                "hires: with --mask the second pass would redraw what is to stay; leave one of "
                "them out"
            )
        try:
            # sd-cli's: as many as the first pass has, which --strength has cut
            asked = enlarged(job.request, hires.steps or job.steps)
            times = asked.sigmas or self._times_of_end(asked)
            if times[0] >= 1:
                raise RequestError(
                    f"it starts from nothing but noise, at {times[0]:g}, and the first pass would "
                    "not be used; give a smaller --hires-denoising-strength, more --hires-steps, "
                    "or --hires-sigmas that begin below 1"
                )
            asked.check_steps(len(times) - 1)
            subjects = []
            for subject in job.subjects:
                subject.schedule.check(len(times) - 1, subject.embedding.source)
                subjects.append(subject.enlarged(job.request, asked))
            for use in job.conditions.controls:
                use.check(len(times) - 1)
        except RequestError as error:
            raise RequestError(f"hires: {error}") from None
        start = None
        if hires.in_pixels:
            # stands for the enlarged picture, so that memory is kept for reading it
            blank = np.broadcast_to(np.uint8(0), (asked.height, asked.width, 3))
            start = StartPicture(blank)
        return replace(
            job,
            request=asked,
            times=times,
            subjects=tuple(subjects),
            start=start,
            conditions=enlarged_conditions(job.conditions, asked.width, asked.height),
            faces=(),
            draws_before=int(hires.in_pixels),
        )

    def _times_of_end(self, request: GenerationRequest) -> tuple[float, ...]:
        """The end of a longer schedule, of about as many steps as are asked for: sd-cli's way."""
        assert request.steps is not None
        total = int(np.float32(request.steps) / np.float32(request.strength))
        if total > MAX_STEPS:
            raise RequestError(
                f"{request.steps} steps at strength {request.strength:g} are the end of {total}, "
                f"and {MAX_STEPS} is the most; give fewer"
            )
        return tuple(cut_schedule(self._times(replace(request, steps=total)), request.strength))

    @property
    def _default_steps(self) -> int:
        return DEV_STEPS if self.dev else SCHNELL_STEPS

    def _faces(
        self, request: GenerationRequest, subjects: Sequence[Subject], loras: tuple[LoraUse, ...]
    ) -> tuple[Job | None, ...]:
        """The patterns of a detail pass: see `Job.faces`. Raises as `job`."""
        detail = request.detail
        if detail is None:
            return ()
        width, height = request.final_size
        request = replace(request, width=width, height=height, hires=None)
        negatives = prompts_of(detail.negative_prompt, request.negative_prompt)
        patterns: list[Job | None] = []
        for number, prompt in enumerate(prompts_of(detail.prompt, request.prompt)):
            if prompt is None:
                patterns.append(None)
                continue
            negative = negatives[min(number, len(negatives) - 1)]
            asked = close_up(request, prompt, negative or "")
            # stands for a face that is not known yet
            blank = np.zeros((asked.height, asked.width, 3), np.uint8)
            start = StartPicture(blank, blank[..., 0])
            times = _cut(asked.sigmas or self._times(asked), asked, start)
            for subject in subjects:
                self._check_identity(asked, subject.embedding)
            prompts = self._prompts(asked, loras)
            patterns.append(
                Job(
                    asked,
                    asked.seed,
                    times,
                    prompts,
                    start=start,
                    loras=loras,
                    tiling=asked.tiling(),
                )
            )
        return tuple(patterns)

    def _prompts(
        self, request: GenerationRequest, loras: tuple[LoraUse, ...]
    ) -> tuple[Prompt, ...]:
        """The positive, and with true CFG the negative prompt. Raises RequestError."""
        texts = [request.prompt]
        if request.cfg_scale != 1:
            texts.append(request.negative_prompt)
        length, weighted = request.t5_max_length, request.prompt_weights
        return tuple(self.reader.read(text, length, weighted, loras) for text in texts)

    def _times(self, request: GenerationRequest) -> tuple[float, ...]:
        """The schedule: steps + 1 times from 1 to 0."""
        name = request.schedule_name
        steps = request.steps or self._default_steps
        if request.flow_shift == "auto":
            mu = schedule_mu(name, width=request.width, height=request.height, dev=self.dev)
        else:
            mu = None if request.flow_shift == "none" else float(request.flow_shift)
        return tuple(make_schedule(name, steps, mu))

    @contextlib.contextmanager
    def _naming_default_steps(self, request: GenerationRequest, steps: int) -> Iterator[None]:
        """Where the number of steps is the model's own, what does not go with it is the file's
        doing, not the options'.
        """
        try:
            yield
        except RequestError as error:
            if request.steps is not None or request.sigmas is not None:
                raise
            raise InputError(
                f"{error} ({self.files.flux.path.name} takes {steps} steps unless --steps says)"
            ) from None

    def _check_width(self, found: FoundFile, marker: Marker, wanted: int, usual: str) -> None:
        """Raise CheckpointError for a text encoder that gives other widths than Flux takes."""
        check_storage(part_of(found.header, marker))
        width = width_of(found.header, marker)
        if width != wanted:
            raise CheckpointError(
                f"{found.path}: has width {width}, {self.files.flux.path} wants {wanted}; "
                f"they do not belong together, the public Flux files take {usual}"
            )

    def _check_identity(self, request: GenerationRequest, embedding: Embedding) -> None:
        if self.adapter is None:
            raise IdentityError(
                "an identity needs PuLID's weights; "
                "give --pulid-weights pulid_flux_v0.9.1.safetensors"
            )
        # uncond has the same width, the format sees to it
        self.adapter.check_tokens(embedding.tokens.shape, embedding.source)
        if request.cfg_scale != 1 and request.negative_id == "uncond" and embedding.uncond is None:
            raise IdentityError(
                f"cfg-scale {request.cfg_scale:g}: {embedding.source} holds no unconditional "
                "identity; extract it again with 'pulid-extract --with-uncond', or choose "
                "'--negative-id same' (as sd-cli does) or '--negative-id none'"
            )

    def _check_references(self, conditions: Conditions) -> None:
        """Raise CheckpointError where Flux is known to read no reference."""
        if not conditions.references or self.kontext:
            return
        path = self.files.flux.path
        if not self.dev:
            raise CheckpointError(
                f"{path}: is FLUX.1 schnell, which reads no reference picture; give FLUX.1 Kontext "
                "dev, or start from the picture with --init-img"
            )
        if is_kontext(self.files.flux.header) == "no":
            raise CheckpointError(
                f"{path}: by its name not FLUX.1 Kontext, and no other Flux reads reference "
                "pictures; give Kontext dev, or --kontext if this is it"
            )

    def _check_encoder(
        self, request: GenerationRequest, start: StartPicture | None, conditions: Conditions
    ) -> None:
        """Raise CheckpointError for pictures that an autoencoder without encoder cannot read."""
        what = {
            "--init-img": start is not None,
            "a reference picture": bool(conditions.references),
            "--control-net": any(
                not self.controls[use.path].shape.pixels for use in conditions.controls
            ),
            "a detail pass": request.detail is not None,
            "--hires-upscaler": request.hires is not None and request.hires.in_pixels,
        }
        needed = [name for name, is_asked in what.items() if is_asked]
        vae = self.files.vae
        if needed and not has_encoder(vae.header):
            remedy = "use the whole ae.safetensors"
            if is_tiny(vae.header):
                remedy = "give --tae the whole of taef1, or --taesd-preview-only"
            raise CheckpointError(
                f"{vae.path}: holds a decoder alone, and {needed[0]} needs the encoder too; "
                f"{remedy}"
            )

    def _check_loras(self, loras: Sequence[LoraUse]) -> None:
        """Every LoRA belongs to this Flux, before anything loads. Parts for CLIP and T5 are checked
        when those load, before Flux.
        """
        layers = flux_layers(self.shape) if loras else {}
        for lora in loras:
            is_new = lora.path not in self.loras
            if is_new:
                self.loras[lora.path] = read_lora(lora.path)
            resolve(self.loras[lora.path], Model.FLUX, layers)
            absent = left_out(self.loras[lora.path], Model.FLUX, layers)
            if is_new and absent:
                self._notes.append(
                    f"{lora.path}: without its guidance layers ({', '.join(absent)}): this Flux "
                    "has none, it is schnell; the rest applies"
                )

    def take_notes(self) -> list[str]:
        """What has come up about files since this was last asked, for people."""
        notes, self._notes = self._notes, []
        return notes


def _cut(
    times: tuple[float, ...], request: GenerationRequest, start: StartPicture
) -> tuple[float, ...]:
    """The end of the schedule that strength leaves. Raises RequestError if the picture to start
    from would not be used.
    """
    steps, kept = len(times) - 1, tuple(cut_schedule(times, request.strength))
    # with a mask, what is kept still holds the rest
    if start.mask is None and kept[0] >= 1:
        remedy = "give at least 2 steps"
        if steps > 1:
            remedy = f"give a strength below {(steps - 1) / steps:g}, or more steps"
        raise RequestError(
            f"strength {request.strength:g}: of {steps} steps it leaves all, which start from "
            f"nothing but noise; --init-img would not be used; {remedy}"
        )
    return kept
