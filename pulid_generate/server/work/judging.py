"""What a job comes to: its flags over the server's own, read and fitted to the models' files,
before it waits and again when its turn comes. Loads no model.

May be called from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pulid_extract.shared.file_names import path_of
from pulid_generate.assembly.detail import with_own_prompt
from pulid_generate.assembly.opening import open_pipeline
from pulid_generate.assembly.progress import Progress
from pulid_generate.assembly.requests import (
    Drawing,
    read_drawing,
    read_faces_drawing,
    read_request,
)
from pulid_generate.assembly.usage import (
    faces_usage_error,
    idle_faces_flags,
    idle_flags,
    usage_error,
)
from pulid_generate.errors import RequestError, WeightsError
from pulid_generate.flags.commands.tables import BatchFlags
from pulid_generate.flags.generation.conditions import ControlFlags
from pulid_generate.pictures.picture import Format
from pulid_generate.request.conditions.start_picture import read_picture
from pulid_generate.request.passes.detail import ANTELOPEV2
from pulid_generate.request.passes.hires import UPSCALERS, models_in
from pulid_generate.rows.manifest import read_row
from pulid_generate.server.own_folders import own_folders, without_folders
from pulid_generate.server.settings import Settings
from pulid_generate.server.work.jobs import FORMATS, JobRecord

if TYPE_CHECKING:
    import numpy as np

    from pulid_extract.shared.embedding_file import Embedding
    from pulid_generate.pipeline.pipeline import Pipeline
    from pulid_generate.request.job import Job

CONTROLS = frozenset(item.name for item in fields(ControlFlags))


@dataclass(frozen=True, eq=False)
class JudgedJob:
    """What is drawn for one job."""

    # as it was read of the job's files
    drawing: Drawing
    # one for each picture, fitted to the files of this process
    jobs: list[Job]
    # how the pictures are stored
    form: Format
    # whether their settings stand in them
    metadata: bool
    # a line for each option that was given and changes nothing
    notes: list[str]
    # (H, W, 3) uint8 RGB, whose faces are redrawn; None draws a picture
    picture: np.ndarray | None = None


class Judge:
    """Opens the pipeline once, which reads headers."""

    def __init__(self, flags: BatchFlags, given: frozenset[str], progress: Progress):
        """progress: hears of what the pipeline does. Raises PulidError; a PuLID file that is
        missing is only an error if it was named.
        """
        self.flags, self.given = flags, given
        self.lora_folder = Path(flags.lora_model_dir) if flags.lora_model_dir is not None else None
        # whoever reads the pipeline's files
        self.lock = threading.Lock()
        try:
            self.pipeline: Pipeline = open_pipeline(flags, with_pulid=True, progress=progress)
        except WeightsError:
            if flags.pulid_weights or flags.pulid_id_embedding or flags.identity:
                raise
            self.pipeline = open_pipeline(flags, with_pulid=False, progress=progress)
            progress.note("no PuLID file was found: pictures are drawn without an identity")
        # checked now: a request cannot mend the server's own files
        controls = self.pipeline.fitting.controls
        self.controls = [controls[path_of(name)] for name in flags.control_net or ()]
        self._folders = own_folders(flags, self.pipeline.files)

    @property
    def has_pulid(self) -> bool:
        return self.pipeline.files.pulid is not None

    def without_folders(self, text: str) -> str:
        """A sentence for a visitor: the server's files by their names."""
        return without_folders(text, self._folders)

    def check_identity(self, identity: Embedding, where: str) -> None:
        """Raise IdentityError, with `where` for the identity's name, for tokens of another width
        than the PuLID file's. Without one nothing is known of it.
        """
        adapter = self.pipeline.fitting.adapter
        if adapter is not None:
            adapter.check_tokens(identity.tokens.shape, where)

    def upscalers(self) -> list[str]:
        """What may enlarge a picture between two passes, the models of the server's own folder
        among it.
        """
        folder = self.flags.hires_upscalers_dir
        return [*UPSCALERS, *(models_in(path_of(folder)) if folder is not None else ())]

    def facts(self) -> dict[str, Any]:
        """What the metadata of every picture here says of the models: files by role, what enlarges
        finished pictures, a tiny autoencoder; ControlNets by their names, each with what reads its
        hash; and the folder of models that enlarge between two passes.
        """
        from pulid_generate.pipeline.pixels import MODELS

        fitting = self.pipeline.fitting
        models = {role: getattr(fitting.files, role).name for role in MODELS}
        if fitting.files.pulid is not None:
            models["pulid"] = fitting.files.pulid.name
        controls: dict[str, Callable[[], str]] = {}
        for name in self.flags.control_net or ():
            controls[path_of(name).name] = partial(self._control_sha256, path_of(name))
        folder = self.flags.hires_upscalers_dir
        return {
            "models": models,
            "upscale": fitting.upscale,
            "tae": fitting.tae,
            "controls": controls,
            "hires_upscalers_dir": path_of(folder) if folder is not None else None,
        }

    def _control_sha256(self, path: Path) -> str:
        with self.lock:
            return self.pipeline.fitting.controls[path].sha256

    def flags_of(self, record: JobRecord) -> tuple[BatchFlags, frozenset[str]]:
        """The flags of a job, over the server's own, and which of them were given. Raises
        RequestError.
        """
        row = read_row(record.options, 1, 1, record.files)
        flags, given = row.merged(self.flags, self.given)
        if record.detail_img is not None:
            # the server's own size is that of pictures, not of faces
            given -= {"width", "height"} - row.values.keys()
            flags = replace(flags, ad_model=flags.ad_model or ANTELOPEV2)
        if flags.control_image:
            return flags, given
        # the server's ControlNets wait for a request with a picture for them
        unused = CONTROLS - row.values.keys()
        if flags.control_net:
            flags = replace(flags, **{name: getattr(BatchFlags, name) for name in unused})
        return flags, given - unused

    def judge(self, record: JobRecord, settings: Settings | None = None) -> JudgedJob:
        """The pictures of a job, read and fitted to the models. Raises PulidError.

        settings: whose limits it must keep.
        """
        flags, given = self.flags_of(record)
        find_errors = usage_error if record.detail_img is None else faces_usage_error
        if wrong := find_errors(flags, given):
            raise RequestError(wrong[:1].lower() + wrong[1:].removesuffix("."))
        if flags.reference and flags.ad_model is None and record.detail_img is None:
            raise RequestError(
                "reference: recognises whose face is redrawn; give detail_img or ad_model"
            )
        if flags.seed < 0:
            raise RequestError("seed: the server's own --seed is negative; send one")
        if settings is not None:
            _check_limits(flags, (flags.width, flags.height), settings)
        picture, find_idle = None, idle_flags
        if record.detail_img is None:
            drawing = read_drawing(flags, given)
        else:
            picture, find_idle = read_picture(record.detail_img), idle_faces_flags
            drawing = _faces_drawing(flags, given, record.detail_img, picture)
        if settings is not None and picture is None:
            # a picture to start from may have given the size, and a second pass enlarges it
            _check_limits(flags, drawing.request.final_size, settings)
        # what says so of a dev by its name alone takes it for the server's mistake
        if flags.ref_image and self.pipeline.dev and not self.pipeline.fitting.kontext:
            raise RequestError(
                "ref_image: no Flux but FLUX.1 Kontext reads reference pictures, and this server "
                f"has {self.pipeline.files.flux.name}; leave them out"
            )
        with self.lock:
            jobs = drawing.jobs(self.pipeline)
        if settings is not None:
            for job in jobs[:1]:
                _check_passes(job, settings, picture is not None)
        form = FORMATS[record.output_format]
        notes = list(find_idle(flags, given - self.given, self.pipeline.dev))
        return JudgedJob(drawing, jobs, form, not flags.disable_image_metadata, notes, picture)

    def fitted(self, fields: Mapping[str, Any]) -> Job:
        """The picture that fields of a request come to, without the people and the files that they
        name. Raises PulidError.
        """
        flags, _ = read_row(fields, 1, 1, Path()).merged(self.flags, self.given)
        request = read_request(flags, flags.prompt or "", flags.width, flags.height)
        with self.lock:
            return self.pipeline.job(request)


def _faces_drawing(
    flags: BatchFlags, given: frozenset[str], path: Path, pixels: np.ndarray
) -> Drawing:
    """As `pulid-generate detail` reads its flags for one picture."""
    height, width = pixels.shape[:2]
    return read_faces_drawing(with_own_prompt(flags, path.read_bytes()), given, width, height)


def _check_passes(job: Job, settings: Settings, is_faces_alone: bool) -> None:
    """Raise RequestError for a pass of a job that is more than the server takes."""
    passes = list(job.passes)
    if not is_faces_alone:
        passes += [job, job.last]
    for one in passes:
        if one.steps > settings.max_steps:
            raise RequestError(f"steps {one.steps}: expected at most {settings.max_steps} here")
    for face in job.passes:
        width, height = face.request.width, face.request.height
        if width * height > settings.max_megapixels * 1e6:
            raise RequestError(
                f"extra_ad_args: faces of {width}x{height}: expected at most "
                f"{settings.max_megapixels:g} million pixels here"
            )


def _check_limits(flags: BatchFlags, size: tuple[int, int], settings: Settings) -> None:
    """Raise RequestError for what is more than the server takes. size: (width, height)."""
    width, height = size
    if flags.batch_count > settings.max_pictures:
        raise RequestError(
            f"batch_count {flags.batch_count}: expected at most {settings.max_pictures} here"
        )
    if width * height > settings.max_megapixels * 1e6:
        raise RequestError(
            f"{width}x{height}: expected at most {settings.max_megapixels:g} million pixels here"
        )
    if flags.steps is not None and flags.steps > settings.max_steps:
        raise RequestError(f"steps {flags.steps}: expected at most {settings.max_steps} here")
