"""The second, larger pass over drawn pictures: enlarged as a latent, or decoded, enlarged and
encoded again, then denoised anew. Knows nothing of faces or prompts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from pulid_generate.errors import PulidError
from pulid_generate.files.layouts import LATENT_SCALE
from pulid_generate.files.model import Model
from pulid_generate.models.autoencoder import decode, encode
from pulid_generate.models.upscaler import Upscaler, load_upscaler
from pulid_generate.pipeline.callers import Caller, Item, Latent
from pulid_generate.pipeline.loaded import LoadedModels
from pulid_generate.request.job import Job
from pulid_generate.request.passes.enlarging import enlarged_picture
from pulid_generate.request.passes.hires import LATENT_UPSCALERS
from pulid_generate.request.passes.upscaling import UpscaleSettings
from pulid_generate.sampling.noise import make_noise

# A job, the latent it starts from, what it is called -> its latent
Redraw = Callable[[Job, Tensor, str], Tensor]


class LargerPass:
    """Draws latents again in their larger size."""

    def __init__(self, loaded: LoadedModels, redraw: Redraw):
        self._loaded, self._redraw = loaded, redraw
        self._networks: dict[UpscaleSettings, Upscaler] = {}
        # file -> bytes that are set aside for it
        self._aside: dict[Path, int] = {}

    @contextmanager
    def expecting(self, job: Job) -> Iterator[None]:
        """Load what enlarges a job's picture, and set its memory aside, which goes back if what is
        done within fails. Raises PackageError, InputError, CheckpointError for a file that cannot,
        PlacementError if what was announced before would not fit any more.
        """
        hires = job.request.hires
        if hires is None or hires.model is None or hires.network() in self._networks:
            yield
            return
        network = self._network(hires.network())
        planner, device = self._loaded.planner, self._loaded.models.placement.name_of(Model.VAE)
        aside = self._aside.get(hires.model, 0)
        taken = planner.set_aside(device, max(network.bytes - aside, 0))
        try:
            planner.check()
            yield
        except BaseException:
            planner.give_back(device, taken)
            raise
        self._networks[hires.network()] = network
        self._aside[hires.model] = max(network.bytes, aside)

    def _network(self, settings: UpscaleSettings) -> Upscaler:
        """Of each file one, however many tiles are asked for."""
        for known in self._networks.values():
            if known.settings.path == settings.path:
                return Upscaler(known.network, settings, known.sha256)
        return load_upscaler(settings)

    def finished(self, latents: Sequence[Latent[Item]], caller: Caller[Item]) -> list[Latent[Item]]:
        """The latents, those of jobs with a second pass after it, without those that fail in it.
        Each is drawn by itself. Where the autoencoder cannot stay beside Flux and is wanted, it
        comes once for all of them.
        """
        if not any(latent.job.larger for latent in latents):
            return list(latents)
        enlarged = []
        for latent in latents:
            started = time.perf_counter()
            try:
                start = self._enlarged(latent)
            except PulidError as error:
                caller.failed(latent.item, error)
                continue
            enlarged.append((latent, start, time.perf_counter() - started))
        if self._loaded.keeps_flux_away:
            self._loaded.release()
        done = []
        for latent, start, seconds in enlarged:
            if latent.job.larger is None or start is None:
                done.append(latent)
                continue
            started = time.perf_counter()
            label = f"{caller.label([latent.item])}, larger"
            try:
                drawn = self._redraw(latent.job.larger, start, label)
            except PulidError as error:
                caller.failed(latent.item, error)
                continue
            seconds += time.perf_counter() - started
            done.append(replace(latent, latent=drawn, seconds=latent.seconds + seconds))
        return done

    def _enlarged(self, latent: Latent[Item]) -> Tensor | None:
        """What the second pass starts from, (1, 16, H/8, W/8) of its size; None without one."""
        job, larger = latent.job, latent.job.larger
        hires = job.request.hires
        if larger is None or hires is None:
            return None
        width, height = larger.request.width, larger.request.height
        if not hires.in_pixels:
            return enlarged_latent(latent.latent, width, height, hires.upscaler)
        vae = self._loaded.autoencoder()
        with self._loaded.running(Model.VAE):
            pixels = decode(vae, latent.latent, tiling=job.tiling)
            if hires.model is not None:
                device = self._loaded.models.placement.device_of(Model.VAE)
                pixels = self._networks[hires.network()].enlarged(pixels, device)
            enlarged = enlarged_picture(pixels, width, height, hires.upscaler)
            # sd-cli's: a sample of the encoder by the picture's own seed, before the steps' noise
            noise = make_noise(larger.seed, width, height, larger.request.rng)
            return encode(vae, enlarged, noise=noise, tiling=larger.tiling)


def enlarged_latent(latent: Tensor, width: int, height: int, upscaler: str) -> Tensor:
    """A latent (1, 16, h, w) float32 -> that of a picture of width x height pixels, by one of
    LATENT_UPSCALERS.
    """
    mode, antialias = LATENT_UPSCALERS[upscaler]
    size = height // LATENT_SCALE, width // LATENT_SCALE
    return F.interpolate(latent.float(), size, mode=mode, antialias=antialias)
