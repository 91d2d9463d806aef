"""The part `stages` of bench.gpu: each model of a generation by itself, as the command loads and
runs it, on seeded files of the published sizes: seconds, and the memory plan's numbers beside what
torch allocated. A stage that takes more than the plan gives it is wrong.

On a CPU torch counts nothing, and the plan's numbers stand alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.full_size_files import Sizes, files
from bench.gpu.command import write
from bench.gpu.tables import print_table
from pulid_extract.shared.embedding_file import read_embedding
from pulid_generate import GenerationRequest, ModelFiles, Pipeline, Placement
from pulid_generate.files.model import Model
from pulid_generate.memory.devices import give_back_memory
from pulid_generate.memory.plan import Stage
from pulid_generate.models.autoencoder import decode
from pulid_generate.pipeline.denoiser import Denoiser
from pulid_generate.pipeline.loading import Models
from pulid_generate.pipeline.texts import Texts, TextStates
from pulid_generate.request.job import Job

TEXT_TOKENS, STEPS = 512, 2
ROLES = {
    "--diffusion-model": "flux",
    "--t5-tokenizer": "t5_tokenizer",
    "--t5xxl": "t5xxl",
    "--clip_l": "clip_l",
    "--vae": "vae",
    "--pulid-weights": "pulid",
}


@dataclass(frozen=True)
class Taken:
    """What a stage took."""

    # seconds
    load: float
    run: float
    # bytes; None where nothing counts them
    weights: int | None
    peak: int | None


def measure(device: str, sizes: Sizes, folder: Path, sides: tuple[int, ...] = (512, 1024)):
    """Write the files that are missing and print the table. Returns a line for every stage that
    takes more than was planned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write(sizes, folder)
    found = {ROLES[file.flag]: folder / file.name for file in files(sizes) if file.flag in ROLES}
    pipeline = Pipeline(ModelFiles.find(**found), Placement.choose(device, "bfloat16"))
    identity = read_embedding(folder / files(sizes)[-1].name)
    rows, wrong = [], []
    for side in sides:
        request = GenerationRequest("x", width=side, height=side, steps=STEPS)
        # the plan counts every prompt's tokens; here none is read
        job = pipeline.job(request, identity)
        planner = pipeline.engine().planner
        planner.expect(job)
        pipeline.models.plan = plan = planner.decide().plan
        for model, use in USES.items():
            stage = plan.stage(model)
            taken = _take(pipeline, model, lambda held, use=use, job=job: use(pipeline, held, job))
            rows.append(_row(side, stage, taken))
            most = stage.needs[stage.device]
            if taken.peak is not None and taken.peak > most:
                wrong.append(f"{model}, {side}: {taken.peak} bytes, the plan says {most}")
    heads = ("picture", "stage", "to load, s", "to run, s", "weights: planned, GB", "allocated, GB")
    print_table(
        f"Each stage by itself, the plan's numbers and torch's, {STEPS} steps of Flux",
        (*heads, "at most: planned, GB", "allocated, GB"),
        rows,
    )
    if torch.device(device).type != "cuda":
        print("Nothing is allocated on a GPU here: the plan's numbers stand alone.\n")
    return wrong


def _row(side: int, stage: Stage, taken: Taken) -> tuple[object, ...]:
    def gigabytes(count: int | None) -> str:
        return "-" if count is None else f"{count / 1e9:.2f}"

    seconds = (f"{taken.load:.2f}", f"{taken.run:.2f}")
    planned = gigabytes(stage.weights), gigabytes(stage.needs[stage.device])
    weights = (planned[0], gigabytes(taken.weights))
    return (f"{side}x{side}", stage.model, *seconds, *weights, planned[1], gigabytes(taken.peak))


def _take(pipeline: Pipeline, model: Model, use: Callable[[Any], object]) -> Taken:
    device = pipeline.placement.device_of(model)
    counts = device.type == "cuda"
    give_back_memory()
    if counts:
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    held = LOADS[model](pipeline.models)
    _wait(device)
    loaded = time.perf_counter()
    weights = torch.cuda.memory_allocated(device) if counts else None
    use(held)
    _wait(device)
    done = time.perf_counter()
    peak = torch.cuda.max_memory_allocated(device) if counts else None
    return Taken(loaded - started, done - loaded, weights, peak)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---------------------------------------------------------------------------- what the stages do


def _clip(_pipeline: Pipeline, clip: Any, job: Job) -> None:
    clip.encode(job.prompts[0].clip_ids)


def _t5(_pipeline: Pipeline, t5: Any, job: Job) -> None:
    t5.encode(torch.ones(1, max(job.t5_tokens), dtype=torch.long))


def _flux(pipeline: Pipeline, flux: Any, job: Job) -> None:
    place, shape = pipeline.placement, pipeline.fitting.shape
    random = torch.Generator().manual_seed(5)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=random).to(place.device, place.dtype)

    states = TextStates(normal(1, max(job.t5_tokens), shape.context), normal(1, shape.pooled))
    dev = pipeline.dev
    denoiser = Denoiser(flux, pipeline.fitting.adapter, place.device, place.dtype, dev)
    latents = denoiser.latents([job], [Texts(states)], [None])
    if not torch.isfinite(latents).all():
        raise SystemExit("gpu: wrong: stages: NaN or infinite latents")


def _vae(_pipeline: Pipeline, vae: Any, job: Job) -> None:
    latent = torch.randn(1, 16, job.request.height // 8, job.request.width // 8)
    decode(vae, latent, tiling=job.tiling)


LOADS: dict[Model, Callable[[Models], Any]] = {
    Model.CLIP: Models.clip,
    Model.T5: Models.t5,
    Model.FLUX: Models.flux,
    Model.VAE: Models.vae,
}
USES: dict[Model, Callable[[Pipeline, Any, Job], None]] = {
    Model.CLIP: _clip,
    Model.T5: _t5,
    Model.FLUX: _flux,
    Model.VAE: _vae,
}
