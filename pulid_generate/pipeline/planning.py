"""Which models stay in memory side by side, for jobs that are announced one after the other.

Reads headers and free memory. Loads nothing, and knows nothing of what is loaded.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from pulid_generate.control.files import ControlFile
from pulid_generate.errors import PlacementError
from pulid_generate.files.layouts import TOKEN_PIXELS
from pulid_generate.files.model import Model
from pulid_generate.lora.files import resolve
from pulid_generate.lora.names import flux_layers
from pulid_generate.memory.devices import available_on
from pulid_generate.memory.plan import Plan, Work
from pulid_generate.memory.planning import make_plan
from pulid_generate.pictures.face_finder import PROCESS_BYTES
from pulid_generate.pipeline.fitting import Fitting
from pulid_generate.pipeline.loading import Models
from pulid_generate.request.generation import (
    DEFAULT_TILE_OVERLAP,
    DEFAULT_TILE_SIZE,
    GenerationRequest,
)
from pulid_generate.request.job import Job, may_share
from pulid_generate.request.tiling import Tiling

# Folded identities, both branches counted, that stay for the next picture if there is room; 126 MB
# each in bfloat16 with the public file
IDENTITIES_KEPT = 16
# What a caller wants to stay beside Flux once it is loaded
Staying = Literal["nothing", "autoencoder", "all"]
# The sets of models that may do so, the best first
NOTHING, AUTOENCODER = frozenset[Model](), frozenset({Model.VAE})
BESIDE_FLUX: dict[Staying, tuple[frozenset[Model], ...]] = {
    "nothing": (NOTHING,),
    "autoencoder": (AUTOENCODER, NOTHING),
    "all": (frozenset({Model.CLIP, Model.T5, Model.VAE}), AUTOENCODER, NOTHING),
}


@dataclass(frozen=True)
class Residents:
    """What a plan means for the models."""

    plan: Plan
    # Models that stay beside Flux
    beside: frozenset[Model]
    # Folded identities that there is room for
    identities: int

    def loads_as(self, other: Residents | None) -> bool:
        """Whether what is loaded for the other one may stay as it is."""
        return other is not None and (
            (self.plan.sixteen_bit, self.plan.resident, self.beside)
            == (other.plan.sixteen_bit, other.plan.resident, other.beside)
        )


class MemoryPlanner:
    """Plans for all kinds of jobs that were announced."""

    def __init__(self, fitting: Fitting, models: Models, *, staying: Staying, batch: int):
        """Looks at the free memory: nothing of ours should be loaded yet. batch: jobs that go
        through Flux together at most.
        """
        self.fitting, self.models = fitting, models
        self.staying, self.batch = staying, batch
        # Bytes by device
        self.available = available_on(models.placement.devices)
        # Whether something was announced since the last decision
        self.stale = True
        # (whether each is drawn alone, what else decides its memory) -> one of them, its plan
        self._kinds: dict[tuple[bool, Hashable], tuple[Job, Plan]] = {}
        self._people: dict[str, Job] = {}
        # Bytes of main memory that a process beside this one takes
        self._beside = 0
        # Identities that one batch needs at once
        self._fewest = 1

    def expect(self, job: Job, alone: bool = False) -> Job:
        """Make room for such a job, and give it back with the tiles that it alone would get: they
        change pixels slightly, so the picture's metadata must tell of them.

        alone: it goes through Flux by itself whatever the batch, as every later pass does. Raises
        PlacementError if it cannot fit.
        """
        with self._room_for_finding(job):
            if job.faces:
                job = self.expect_faces(job)
            if job.larger is not None:
                job = replace(job, larger=self.expect(job.larger, alone=True))
            return self._expect_pass(job, alone)

    def _expect_pass(self, job: Job, alone: bool) -> Job:
        """As `expect`, of its first pass."""
        alone = alone or not may_share(job)
        kind = alone, _kind(job)
        if kind not in self._kinds:
            plan = self.plan([], [job])
            plan.check()
            self._kinds[kind] = job, plan
            self.stale = True
        self._expect_people(job)
        if self._kinds[kind][1].tile is None or job.tiling is not None:
            return job
        return replace(job, tiling=Tiling.parse(DEFAULT_TILE_SIZE, DEFAULT_TILE_OVERLAP))

    def _expect_people(self, job: Job) -> None:
        branches = 2 if job.guided else 1
        self._fewest = max(self._fewest, self.batch * branches * len(job.subjects))
        for subject in job.subjects:
            name = subject.embedding.sha256
            if name not in self._people and len(self._people) < IDENTITIES_KEPT:
                self._people[name] = job
                self.stale = True

    def expect_faces(self, job: Job) -> Job:
        """Make room for the detail pass of such a job, and give it back with the tiles of its
        faces. Raises PlacementError if it cannot fit.
        """
        faces = []
        with self._room_for_finding(job):
            for pattern in job.faces:
                if pattern is not None:
                    pattern = self.expect(pattern, alone=True)
                    self._expect_people(replace(pattern, subjects=job.subjects))
                faces.append(pattern)
        return replace(job, faces=tuple(faces))

    def forget(self) -> None:
        """Keep no room for what was announced before."""
        self._kinds.clear()
        self._people.clear()
        self._fewest = 1
        self.stale = True

    def set_aside(self, device: str, count: int) -> int:
        """Leave so many bytes of a device to what is loaded beside the models; returns how many
        there were.
        """
        taken = min(count, self.available.get(device, 0))
        self.give_back(device, -taken)
        return taken

    def give_back(self, device: str, count: int) -> None:
        """Let the models have what was set aside."""
        if count:
            self.available[device] += count
            self._plan_anew()

    def check(self) -> None:
        """Raise PlacementError if anything that was announced does not fit any more."""
        for _, plan in self._kinds.values():
            if plan.problem:
                raise PlacementError(f"beside it an earlier picture would not fit: {plan.problem}")

    @contextmanager
    def _room_for_finding(self, job: Job) -> Iterator[None]:
        """For the process that finds faces, once a job has any; it goes back if what is done within
        fails. Raises PlacementError if what was announced before would not fit any more.
        """
        if self._beside or not job.faces:
            yield
            return
        self._beside = self.set_aside("cpu", PROCESS_BYTES)
        try:
            self.check()
            yield
        except BaseException:
            self.give_back("cpu", self._beside)
            self._beside = 0
            raise

    def _plan_anew(self) -> None:
        """What was announced, in the room that is left now."""
        for kind, (job, _) in self._kinds.items():
            self._kinds[kind] = job, self.plan([], [job])
        self.stale = True

    def decide(self) -> Residents:
        """What stays, for all that was announced. Raises PlacementError if a batch cannot fit."""
        together: list[Job] = []
        # of people what counts is who they are
        alone = list(self._people.values())
        for (is_alone, _), (job, _) in self._kinds.items():
            (alone if is_alone else together).append(job)
        identities = max(IDENTITIES_KEPT, self._fewest)
        base = self.plan(together, alone, identities=identities)
        # those that do not fit are folded anew when their turn comes
        while base.problem and identities > self._fewest:
            identities = max(identities // 2, self._fewest)
            base = self.plan(together, alone, identities=identities)
        if base.problem and self.batch > 1:
            raise PlacementError(f"--batch-size {self.batch}: {base.problem}")
        self.stale = False
        for beside in BESIDE_FLUX[self.staying]:
            if not beside:
                break
            extra = _bytes_on_flux_device(base, beside)
            plan = self.plan(together, alone, identities=identities, extra=extra)
            # text encoders are not worth a slower Flux; the autoencoder is, else Flux would have to
            # leave and come back
            slower = (plan.sixteen_bit, plan.resident) != (base.sixteen_bit, base.resident)
            if Model.T5 in beside and slower:
                continue
            if not plan.problem and _fits_elsewhere(plan, beside):
                return Residents(plan, beside, identities)
        return Residents(base, NOTHING, identities)

    def plan(
        self,
        together: Sequence[Job],
        alone: Sequence[Job],
        *,
        identities: int = IDENTITIES_KEPT,
        extra: int = 0,
    ) -> Plan:
        """What these jobs need where, from headers alone.

        together: `batch` of them go through Flux at once. alone: each by itself. identities: that
        stay folded at most. extra: bytes of what else is on its device.
        """
        jobs = [*together, *alone]
        largest = _largest(jobs)
        shared = _largest(together) if together else None
        tile = largest.tiling() if all(job.request.vae_tiling for job in jobs) else None
        work = Work(
            largest.width,
            largest.height,
            t5_tokens=max(count for job in jobs for count in job.t5_tokens),
            id_tokens=_identity_tokens(jobs)[:identities],
            tile=(tile.width, tile.height) if tile else None,
            init_image=any(job.start or job.conditions for job in jobs),
            reference_tokens=max(job.conditions.reference_tokens for job in jobs),
            dequantize=self.models.dequantize,
            fp8=self.models.compute == "fp8",
            batch=self.batch if shared is not None else 1,
            together=(shared.width, shared.height) if shared is not None else None,
            recorded=max(
                self._recorded_tokens(together, self.batch), self._recorded_tokens(alone, 1)
            ),
            extra=self._lora_bytes(jobs)
            + self._cache_bytes(jobs)
            + self._control_bytes(jobs)
            + self.models.weight_cache
            + extra,
        )
        return make_plan(self.fitting.files, work, self.models.placement, self.available)

    def _control_bytes(self, jobs: Sequence[Job]) -> int:
        """Of ControlNets, which stay beside Flux, and of what they predict of a step."""
        number = torch.finfo(self.models.placement.dtype).bits // 8
        largest = _largest(jobs)
        tokens = largest.width * largest.height // TOKEN_PIXELS**2
        return sum(file.bytes(tokens, number) for file in self._controls(jobs).values())

    def _recorded_tokens(self, jobs: Sequence[Job], batch: int) -> int:
        """Image and text tokens of the largest forward that is recorded."""
        most = 0
        for job in jobs:
            image = job.request.width * job.request.height // TOKEN_PIXELS**2
            image += job.conditions.reference_tokens
            # the last batch may be a smaller one
            for together in range(1, batch + 1):
                if self.models.records(together * image):
                    most = max(most, together * (image + max(job.t5_tokens)))
        return most

    def _controls(self, jobs: Sequence[Job]) -> dict[Path, ControlFile]:
        found = {}
        for job in jobs:
            for use in job.conditions.controls:
                found[use.path] = self.fitting.controls[use.path]
        return found

    def _cache_bytes(self, jobs: Sequence[Job]) -> int:
        """Of what a cache of steps remembers of its blocks, in the compute dtype."""
        number = torch.finfo(self.models.placement.dtype).bits // 8
        most = 0
        for job in jobs:
            cache = job.request.step_cache
            if cache is None or not cache.of_blocks:
                continue
            image = job.request.width * job.request.height // TOKEN_PIXELS**2
            image += job.conditions.reference_tokens
            # residuals and their derivatives, old and new ones while they are made; the image's of
            # the first blocks
            kept = 2 * (cache.order + 1) * (image + max(job.t5_tokens)) + 2 * image
            branches = 2 if job.guided else 1
            most = max(most, kept * branches * self.fitting.shape.width * number)
        return most

    def _lora_bytes(self, jobs: Sequence[Job]) -> int:
        """Of the matrices of the LoRAs that are on at once, in the compute dtype."""
        layers = flux_layers(self.fitting.shape)
        most = 0
        for job in jobs:
            numbers = 0
            for lora in job.loras:
                changes = resolve(self.fitting.loras[lora.path], Model.FLUX, layers).values()
                numbers += sum(change.numbers for change in changes)
            most = max(most, numbers)
        return most * torch.finfo(self.models.placement.dtype).bits // 8


def _largest(jobs: Sequence[Job]) -> GenerationRequest:
    return max((job.request for job in jobs), key=lambda request: request.width * request.height)


def _kind(job: Job) -> Hashable:
    """Jobs of one kind need the same memory, people aside."""
    request = job.request
    return (
        request.width,
        request.height,
        job.t5_tokens,
        job.tiling,
        job.needs_uncond,
        job.start is not None,
        job.loras,
        job.request.step_cache,
        job.conditions.reference_tokens,
        tuple(use.path for use in job.conditions.controls),
    )


def _identity_tokens(jobs: Sequence[Job]) -> tuple[int, ...]:
    """Of every person once, and once more in the negative branch if any job has one."""
    people = {}
    for job in jobs:
        for subject in job.subjects:
            people[subject.embedding.sha256] = subject.embedding
    tokens = [len(person.tokens) for person in people.values()]
    if any(job.needs_uncond for job in jobs):
        tokens += [len(person.uncond) for person in people.values() if person.uncond is not None]
    return tuple(tokens)


def _bytes_on_flux_device(plan: Plan, models: frozenset[Model]) -> int:
    """What these models take on Flux's device."""
    device = plan.stage(Model.FLUX).device
    return sum(plan.stage(model).needs.get(device, 0) for model in models)


def _fits_elsewhere(plan: Plan, models: frozenset[Model]) -> bool:
    """Whether Flux and these models fit together on the other devices; on Flux's own, the plan has
    seen to it.
    """
    flux_device = plan.stage(Model.FLUX).device
    together = [plan.stage(model) for model in models | {Model.FLUX}]
    for device, have in plan.available.items():
        needed = sum(stage.needs.get(device, 0) for stage in together)
        if device != flux_device and needed > have:
            return False
    return True
