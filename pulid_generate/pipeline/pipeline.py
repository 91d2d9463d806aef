"""A set of model files as one object: what a library's user draws with.

Whether the files belong together is read from their headers, before the first weight; the engine
loads them. Knows nothing of flags, exit codes or output files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pulid_extract.shared.embedding_file import Embedding
from pulid_generate.files.model import Model
from pulid_generate.files.model_set import ModelFiles
from pulid_generate.files.storage import quality_notes
from pulid_generate.injection.compiling import check_compiler, compiled_folder
from pulid_generate.memory.placement import CudaGraphs, Placement
from pulid_generate.models.upscaler import load_upscaler
from pulid_generate.packed.ggml import Compute
from pulid_generate.pictures.face_finder import FaceFinder
from pulid_generate.pictures.picture import Picture
from pulid_generate.pipeline.callers import Caller, Log, OnDenoised, OnStep, Reports
from pulid_generate.pipeline.engine import Engine
from pulid_generate.pipeline.fitting import Fitting
from pulid_generate.pipeline.loading import Models
from pulid_generate.pipeline.pixels import arithmetic_of, parameters_of, parameters_of_faces
from pulid_generate.pipeline.planning import Staying
from pulid_generate.pipeline.previewing import PreviewSettings
from pulid_generate.pipeline.text_cache import TextCache
from pulid_generate.request.conditions.bundle import NO_CONDITIONS, Conditions
from pulid_generate.request.generation import GenerationRequest
from pulid_generate.request.job import Job, StartPicture, Subject
from pulid_generate.request.passes.upscaling import UpscaleSettings
from pulid_generate.request.prompts.tokens import LoraUse, Prompt


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
        on_denoised: OnDenoised | None = None,
        dequantize: bool = False,
        compile: bool = False,
        compute: Compute = "float",
        weight_cache: int = 0,
        cuda_graphs: CudaGraphs = "auto",
        finder: FaceFinder | None = None,
        kontext: bool = False,
        preview: PreviewSettings | None = None,
        upscale: UpscaleSettings | None = None,
    ):
        """Checks from headers alone that the files belong together. Raises CheckpointError,
        IdentityError or WeightsError.

        log, note, on_step, on_denoised: see `callers.Reports`. dequantize: widen packed matrices
        (GGUF, fp8) once, when they load. compile: torch.compile Flux's blocks. compute,
        weight_cache, cuda_graphs: see `loading.Models`. finder: finds faces for detail passes.
        kontext: see `Fitting`. preview: see `Engine`. upscale: enlarge every finished picture;
        PackageError without the extra [upscale].
        """
        self.files, self.placement, self.compile = files, placement, compile
        self.finder, self.preview = finder, preview
        self.reports = Reports(log, note or log, on_step, on_denoised)
        if compile:
            check_compiler(placement.device, compiled_folder())
        self.fitting = Fitting(files, kontext)
        self.upscaler = load_upscaler(upscale) if upscale is not None else None
        if self.upscaler is not None:
            self.fitting.upscale = self.upscaler.facts()
        self.models = Models(
            files,
            placement,
            dequantize=dequantize,
            compute=compute,
            weight_cache=weight_cache,
            cuda_graphs=cuda_graphs,
        )
        for found, model in ((files.flux, Model.FLUX), (files.t5xxl, Model.T5)):
            for line in quality_notes(found.header, model.marker):
                self.reports.note(line)

    @property
    def dev(self) -> bool:
        """True for a guidance-distilled model (dev), False for schnell."""
        return self.fitting.dev

    def job(
        self,
        request: GenerationRequest,
        subjects: Embedding | Sequence[Subject] | None = None,
        start: StartPicture | None = None,
        loras: Sequence[LoraUse] = (),
        conditions: Conditions = NO_CONDITIONS,
    ) -> Job:
        """The request's first picture: see `Fitting.job`."""
        job = self.fitting.job(request, subjects, start, loras, conditions)
        for note in self.fitting.take_notes():
            self.reports.note(note)
        return job

    def jobs(
        self,
        request: GenerationRequest,
        subjects: Embedding | Sequence[Subject] | None = None,
        start: StartPicture | None = None,
        loras: Sequence[LoraUse] = (),
        conditions: Conditions = NO_CONDITIONS,
    ) -> list[Job]:
        """The request's pictures, seeds seed, seed + 1, ..: see `Fitting.job`."""
        first = self.job(request, subjects, start, loras, conditions)
        return [first.numbered(index) for index in range(request.batch_count)]

    @property
    def arithmetic(self) -> str:
        """In what the models compute: Flux's, and the others' where it is another."""
        return arithmetic_of(self.placement, self.models.compute)

    def parameters(self, job: Job) -> str:
        """The text that a job's picture carries, known before it is drawn."""
        return parameters_of(job, self.fitting, self.placement, self.models.compute)

    def given_picture(self, job: Job, pixels: np.ndarray) -> Picture:
        """A picture that is there, uint8 RGB (H, W, 3), for a job's detail pass, with the text that
        it will carry then.
        """
        place, compute = self.placement, self.models.compute
        parameters = parameters_of_faces(job, pixels, self.fitting, place, compute)
        return Picture(job, pixels, parameters, self.arithmetic)

    def engine(
        self,
        cache: TextCache | None = None,
        *,
        staying: Staying = "nothing",
        batch: int = 1,
    ) -> Engine:
        """What draws; see `Engine`. cache: None encodes every prompt anew."""
        return Engine(
            self.fitting,
            self.models,
            self.reports,
            cache=cache or TextCache(None),
            staying=staying,
            batch=batch,
            compile=self.compile,
            finder=self.finder,
            preview=self.preview,
            upscaler=self.upscaler,
        )

    def draw(self, jobs: Sequence[Job]) -> Iterator[Picture]:
        """Every job's picture, in order. Raises CheckpointError, PlacementError.

        Each model comes once, for all the jobs, and goes before the next one; where jobs have a
        detail pass, or the autoencoder shows previews, it stays beside Flux if both fit.
        """
        shows = self.preview is not None and self.preview.kind == "vae"
        is_wanted = shows or any(job.passes for job in jobs)
        staying: Staying = "autoencoder" if is_wanted else "nothing"
        with self.engine(staying=staying) as engine:
            expected = [engine.expect(job) for job in jobs]
            everyone = JobsInOrder(expected)
            for denoised in engine.draw([[place] for place in range(len(jobs))], everyone):
                yield denoised.decode()


class JobsInOrder(Caller[int]):
    """Wants all of some jobs, each known by its place. The first that fails ends it."""

    def __init__(self, jobs: Sequence[Job]):
        self.jobs = jobs

    def prompts(self, item: int) -> Sequence[Prompt]:
        """As `Caller`."""
        return self.jobs[item].all_prompts

    def job(self, item: int) -> Job:
        """As `Caller`."""
        return self.jobs[item]

    def label(self, items: Sequence[int]) -> str:
        """As `Caller`."""
        if len(self.jobs) == 1:
            return "denoise"
        return f"picture {items[0] + 1} of {len(self.jobs)}"
