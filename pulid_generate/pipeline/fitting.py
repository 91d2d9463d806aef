"""Requests fitted to one set of model files: jobs, or the reason why there can be none. From
headers alone, before the first weight.

Knows no device, no flag and loads no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pulid_extract.shared.embedding_file import Embedding
from pulid_generate.errors import CheckpointError, IdentityError, RequestError
from pulid_generate.files.layouts import FluxShape
from pulid_generate.files.model import Model
from pulid_generate.files.model_set import ModelFiles
from pulid_generate.files.storage import check_storage, part_of, width_of
from pulid_generate.injection.adapter import PulidAdapter
from pulid_generate.injection.hooks import check_fit
from pulid_generate.injection.layer_skip import check_layers
from pulid_generate.lora.files import LoraFile, read_lora, resolve
from pulid_generate.lora.names import flux_layers
from pulid_generate.models.flux import flux_shape
from pulid_generate.request.generation import GenerationRequest
from pulid_generate.request.job import Job, LoraUse, StartPicture, Subject
from pulid_generate.request.tiling import Tiling
from pulid_generate.sampling.schedules import cut_schedule, make_schedule, schedule_mu

DEFAULT_STEPS = {True: 20, False: 4}  # dev, schnell


class Fitting:
    """What the files say about the model, and what can be drawn with it.

    shape: Flux's. adapter: PuLID's layers, None without that file. loras: those that jobs have
    asked for, their matrices memory-mapped.
    """

    def __init__(self, files: ModelFiles):
        """Checks that the files belong together. Raises CheckpointError, IdentityError or
        WeightsError.
        """
        self.files = files
        self.shape: FluxShape = flux_shape(files.flux.header)
        self.adapter = PulidAdapter.load(files.pulid.path) if files.pulid else None
        self.loras: dict[Path, LoraFile] = {}
        if self.adapter:
            check_fit(
                self.adapter,
                self.shape.width,
                self.shape.double,
                self.shape.single,
                str(files.flux.path),
            )
        self._check_widths()

    @property
    def dev(self) -> bool:
        """True for a guidance-distilled model (dev), False for schnell."""
        return self.shape.guidance

    def jobs(
        self,
        request: GenerationRequest,
        subjects: Embedding | Sequence[Subject] | None = None,
        start: StartPicture | None = None,
        loras: Sequence[LoraUse] = (),
    ) -> list[Job]:
        """The request's pictures, seeds seed, seed + 1, ..; its schedule filled in.

        subjects: who is in them; an embedding alone is one person over the whole picture, with the
        request's weight and schedule. start:
        what they start from. Raises RequestError for a part that would silently do nothing,
        IdentityError, WeightsError for a LoRA that does not fit.
        """
        if isinstance(subjects, Embedding):
            subjects = (Subject(subjects, request.id_weight, request.id_schedule),)
        times = request.sigmas or tuple(self._times(request))
        if start is not None:
            times = self._cut(times, request, start)
        resolved = request.resolved(len(times) - 1, times)
        if request.skip_guidance.scale:
            check_layers(request.skip_guidance.layers, self.shape.double + self.shape.single)
        tiling_of(request)
        for subject in subjects or ():
            self._check_identity(request, subject.embedding)
            subject.schedule.check(len(times) - 1, subject.embedding.source)
        self._check_loras(loras)
        return [
            Job(resolved, request.seed + index, tuple(subjects or ()), start, tuple(loras))
            for index in range(request.batch_count)
        ]

    def _check_widths(self) -> None:
        flux, clip, t5 = self.files.flux, self.files.clip_l, self.files.t5xxl
        for found, marker, wanted, usual in (
            (clip, Model.CLIP.marker, self.shape.pooled, "clip_l.safetensors"),
            (t5, Model.T5.marker, self.shape.context, "t5xxl_fp16.safetensors"),
        ):
            check_storage(part_of(found.header, marker))
            width = width_of(found.header, marker)
            if width != wanted:
                raise CheckpointError(
                    f"{found.path}: has width {width}, {flux.path} wants {wanted}; they do not belong together, "
                    f"the public Flux files take {usual}"
                )

    def _check_identity(self, request: GenerationRequest, embedding: Embedding) -> None:
        if self.adapter is None:
            raise IdentityError(
                "an identity needs PuLID's weights; give --pulid-weights pulid_flux_v0.9.1.safetensors"
            )
        # uncond has the same width, the format sees to it
        self.adapter.check_tokens(embedding.tokens.shape, embedding.source)
        if request.cfg_scale != 1 and request.negative_id == "uncond" and embedding.uncond is None:
            raise IdentityError(
                f"cfg-scale {request.cfg_scale:g}: {embedding.source} holds no unconditional identity; extract it again with "
                "'pulid-extract --with-uncond', or choose '--negative-id same' (as sd-cli does) or '--negative-id none'"
            )

    def _check_loras(self, loras: Sequence[LoraUse]) -> None:
        """Every LoRA belongs to this Flux, before anything loads. Parts for CLIP and T5 are checked
        when those load, before Flux.
        """
        layers = flux_layers(self.shape) if loras else {}
        for lora in loras:
            if lora.path not in self.loras:
                self.loras[lora.path] = read_lora(lora.path)
            resolve(self.loras[lora.path], Model.FLUX, layers)

    def _cut(
        self, times: tuple[float, ...], request: GenerationRequest, start: StartPicture
    ) -> tuple[float, ...]:
        """The end of the schedule that strength leaves. Raises RequestError if the picture to start
        from would not be used.
        """
        steps, kept = len(times) - 1, tuple(cut_schedule(times, request.strength))
        if start.mask is None and kept[0] >= 1:  # with a mask, what is kept still holds the rest
            remedy = (
                f"give a strength below {(steps - 1) / steps:g}, or more steps"
                if steps > 1
                else "give at least 2 steps"
            )
            raise RequestError(
                f"strength {request.strength:g}: of {steps} steps it leaves all, which start from nothing but noise; --init-img would "
                f"not be used; {remedy}"
            )
        return kept

    def _times(self, request: GenerationRequest) -> list[float]:
        """The schedule: steps + 1 times from 1 to 0."""
        name, steps = request.schedule_name, request.steps or DEFAULT_STEPS[self.dev]
        if request.flow_shift == "auto":
            mu = schedule_mu(name, width=request.width, height=request.height, dev=self.dev)
        else:
            mu = None if request.flow_shift == "none" else float(request.flow_shift)
        return make_schedule(name, steps, mu)


def tiling_of(request: GenerationRequest) -> Tiling | None:
    """The tiles of the autoencoder that a request asks for. Raises RequestError."""
    return (
        Tiling.parse(request.vae_tile_size, request.vae_tile_overlap)
        if request.vae_tiling
        else None
    )
