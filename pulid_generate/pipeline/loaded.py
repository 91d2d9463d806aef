"""The models that are loaded now: each where and as the memory plan has it, and what hangs on it.

Knows which models stay beside Flux and which have to go for another; nothing of the order in which
they are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from pulid_generate.control.loading import load_control
from pulid_generate.errors import PlacementError
from pulid_generate.files.model import Model
from pulid_generate.injection.compiling import (
    compile_blocks,
    compiled_folder,
    naming_full_disk,
)
from pulid_generate.kernels.recording import CudaRecorder, Recordings
from pulid_generate.lora.hooks import attach_lora_files
from pulid_generate.memory.devices import give_back_memory
from pulid_generate.memory.plan import MeasureKind, Plan
from pulid_generate.models.autoencoder import Autoencoder
from pulid_generate.models.clip import ClipText
from pulid_generate.models.t5 import T5Text
from pulid_generate.pipeline.callers import Reports
from pulid_generate.pipeline.denoiser import Denoiser
from pulid_generate.pipeline.loading import Models, naming_memory
from pulid_generate.pipeline.planning import MemoryPlanner, Residents
from pulid_generate.request.prompts.tokens import LoraUse

Loaded = TypeVar("Loaded")


class LoadedModels:
    """Gives a model when it is wanted: the one that is there, or one that is loaded now."""

    def __init__(self, models: Models, planner: MemoryPlanner, reports: Reports, compile: bool):
        self.models, self.planner, self.reports = models, planner, reports
        self.compile = compile
        self.fitting = planner.fitting
        self._residents: Residents | None = None
        self._clip: ClipText | None = None
        self._t5: T5Text | None = None
        self._vae: Autoencoder | None = None
        self._denoiser: Denoiser | None = None
        self._controls: dict[Path, Any] = {}
        # What hangs on Flux
        self._compiled, self._with_loras = ExitStack(), ExitStack()
        self._loras: tuple[LoraUse, ...] = ()

    def stays(self, model: Model) -> bool:
        """Whether a model stays beside Flux, by the plan for all that is expected now. Raises
        PlacementError if that cannot fit.
        """
        return model in self._settle().beside

    def clip(self) -> ClipText:
        """CLIP-L. Whoever calls lets it go, where it cannot stay. Raises CheckpointError."""
        clip = self._clip or self._load(Model.CLIP, self.models.clip)
        if self.stays(Model.CLIP):
            self._clip = clip
        return clip

    def t5(self) -> T5Text:
        """T5. Whoever calls lets it go, where it cannot stay. Raises CheckpointError."""
        t5 = self._t5 or self._load(Model.T5, self.models.t5)
        if self.stays(Model.T5):
            self._t5 = t5
        return t5

    def autoencoder(self) -> Autoencoder:
        """The autoencoder. Where it cannot stay beside Flux, Flux leaves.

        Raises CheckpointError.
        """
        if self._vae is None:
            if not self.stays(Model.VAE):
                self.release()
            self._vae = self._load(Model.VAE, self.models.vae)
        return self._vae

    @property
    def keeps_flux_away(self) -> bool:
        """Whether the autoencoder is loaded now and has to go before Flux comes."""
        return self._vae is not None and not self.stays(Model.VAE)

    def autoencoder_beside(self) -> Autoencoder | None:
        """The autoencoder, if it stays beside Flux. Raises CheckpointError."""
        return self.autoencoder() if self.stays(Model.VAE) else None

    def denoiser(self, loras: tuple[LoraUse, ...]) -> Denoiser:
        """Flux with these LoRAs on it, and no others. Raises CheckpointError, WeightsError."""
        residents, place = self._settle(), self.models.placement
        if self._denoiser is None:
            self._denoiser = Denoiser(
                self._load(Model.FLUX, self.models.flux),
                self.fitting.adapter,
                place.device,
                place.dtype,
                self.fitting.dev,
                residents.identities,
                self._recordings(),
                self.models.records,
            )
            if self.compile:
                compiled = compile_blocks(self._denoiser.flux, compiled_folder())
                self._compiled.enter_context(compiled)
        if loras != self._loras:
            self._with_loras.close()
            self._loras = ()
            self._denoiser.changed()
            attached = self.attached(self._denoiser.flux, Model.FLUX, loras)
            self._with_loras.enter_context(attached)
            self._loras = loras
        return self._denoiser

    def _recordings(self) -> Recordings | None:
        """None where no forward of Flux can be recorded."""
        if not self.models.records():
            return None
        return Recordings(partial(CudaRecorder, self.models.placement.device))

    def control(self, path: Path) -> Any:
        """A ControlNet, which stays while Flux does. Raises CheckpointError."""
        if path not in self._controls:
            self.reports.log(f"loading {path}")
            place = self.models.placement
            file = self.fitting.controls[path]
            self._controls[path] = load_control(file, place.dtype, place.device)
        return self._controls[path]

    def attached(
        self, module: Any, model: Model, loras: Sequence[LoraUse]
    ) -> AbstractContextManager[None]:
        """The part of the LoRAs that is for this model, on its module while it runs."""
        files = [(self.fitting.loras[lora.path], lora.weight) for lora in loras]
        place = self.models.placement
        dtype, device = place.dtype_of(model), place.device_of(model)
        return attach_lora_files(module, model, files, dtype, device)

    @contextmanager
    def running(self, model: Model) -> Iterator[None]:
        """While a model is loaded or used: running out of memory is a PlacementError that names the
        flags which help; compiled code that cannot be written is an OutputError.
        """
        with (
            torch.inference_mode(),
            naming_memory(model, self.models.placement),
            naming_full_disk(),
        ):
            yield

    def release(self) -> None:
        """Let Flux and the autoencoder go."""
        self._with_loras.close()
        self._compiled.close()
        self._denoiser = self._vae = None
        self._controls = {}
        self._loras = ()
        give_back_memory()

    def release_all(self) -> None:
        """Let every model go."""
        self._clip = self._t5 = None
        self.release()

    # ------------------------------------------------------------------------------------- the plan

    def _settle(self) -> Residents:
        """Follow the memory plan for all that is expected. What is loaded stays, unless it would
        have to be loaded otherwise.
        """
        if not self.planner.stale and self._residents is not None:
            return self._residents
        residents = self.planner.decide()
        if not residents.loads_as(self._residents):
            self.release_all()
            self._follow(residents.plan)
        self._residents = residents
        return residents

    def _follow(self, plan: Plan) -> None:
        """Load models as this plan has it from now on. Raises PlacementError if they cannot fit."""
        plan.check()
        for line in plan.notes():
            self.reports.note(line)
        if self.compile and plan.stage(Model.FLUX).has(MeasureKind.SIXTEEN_BIT):
            raise PlacementError(
                "compile: Flux's 16-bit weights are widened layer by layer here, which cannot "
                "be compiled; take --dtype bfloat16, or leave --compile out"
            )
        self.models.plan = plan

    def _load(self, model: Model, load: Callable[[], Loaded]) -> Loaded:
        self.reports.log(f"loading {model}")
        with self.running(model):
            return load()
