"""What pictures are conditioned on, encoded for those in work: references for Kontext, what
ControlNets read. Knows no stage of the drawing.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from torch import Tensor

from pulid_generate.control.residuals import Control
from pulid_generate.files.model import Model
from pulid_generate.models.autoencoder import Autoencoder
from pulid_generate.pipeline.fitting import Fitting
from pulid_generate.pipeline.loaded import LoadedModels
from pulid_generate.pipeline.pixels import (
    control_key,
    control_pixels,
    encode_control,
    encode_references,
    reference_key,
)
from pulid_generate.request.conditions.control_picture import ControlUse
from pulid_generate.request.job import Job


class Conditioner:
    """Encodes the conditions of jobs, and has them ready for Flux."""

    def __init__(self, fitting: Fitting, loaded: LoadedModels):
        self.fitting, self._loaded = fitting, loaded
        self._references: dict[Hashable, Tensor] = {}
        self._controls: dict[Hashable, Tensor] = {}

    def encode(self, jobs: Sequence[Job]) -> None:
        """Those of these jobs and of their larger passes; earlier ones are forgotten. Raises
        CheckpointError.
        """
        self._references, self._controls = {}, {}
        referring = [job for job in jobs if job.conditions]
        if not referring:
            return
        vae = self._loaded.autoencoder()
        with self._loaded.running(Model.VAE):
            for job in referring:
                key = reference_key(job)
                if key is not None and key not in self._references:
                    self._references[key] = encode_references(vae, job)
                self._encode_controls(vae, job)
                if job.larger is not None:
                    # the same tokens, not another sample of the encoder's
                    if key is not None:
                        self._references[reference_key(job.larger)] = self._references[key]
                    self._encode_controls(vae, job.larger)

    def _encode_controls(self, vae: Autoencoder, job: Job) -> None:
        for use in job.conditions.controls:
            if not self.fitting.controls[use.path].shape.pixels:
                self._controls[control_key(use, job)] = encode_control(vae, use, job)

    def references(self, job: Job) -> Tensor | None:
        """Tokens (1, R, 64) of a job's references, None without any."""
        return self._references.get(reference_key(job))

    def controls(self, job: Job) -> list[Control]:
        """Its ControlNets, each with its picture. Raises CheckpointError."""
        return [self._control(use, job) for use in job.conditions.controls]

    def _control(self, use: ControlUse, job: Job) -> Control:
        file, place = self.fitting.controls[use.path], self._loaded.models.placement
        if file.shape.pixels:
            picture = control_pixels(use)
        else:
            picture = self._controls[control_key(use, job)]
        return Control(
            self._loaded.control(use.path),
            picture.to(place.device, place.dtype),
            use.strength,
            file.mode_number(use.mode),
            use.start,
            use.end,
        )
