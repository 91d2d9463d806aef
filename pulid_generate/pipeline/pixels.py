"""Between pictures and latents, for jobs: the picture to start from, the drawn one, and the text
that it carries. The autoencoder comes as an object.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pulid_generate.memory.placement import Placement
from pulid_generate.models.autoencoder import Autoencoder, decode, encode
from pulid_generate.packed.ggml import Compute
from pulid_generate.pictures.description import describe, detail_facts
from pulid_generate.pictures.picture import Picture
from pulid_generate.pipeline.fitting import Fitting
from pulid_generate.request.conditions.control_picture import ControlUse
from pulid_generate.request.conditions.start_picture import paste
from pulid_generate.request.job import Job, StartPicture
from pulid_generate.sampling.noise import make_noise, make_noises
from pulid_generate.sampling.packing import pack
from pulid_generate.version import __version__

# Files that a picture's metadata names
MODELS = ("flux", "vae", "clip_l", "t5xxl")


def start_key(job: Job) -> Hashable:
    """Jobs of equal keys start from the same latent; None without a picture to start from."""
    if job.start is None:
        return None
    return job.start.sha256, job.request.seed, job.request.rng, job.tiling


def encode_start(vae: Autoencoder, job: Job, start: StartPicture) -> Tensor:
    """The latent (1, 16, H/8, W/8) that a job starts from."""
    request = job.request
    # of several pictures, sd-cli's: the sample is the first seed's for every one
    noise = make_noise(request.seed, request.width, request.height, request.rng)
    return encode(vae, start.pixels, noise=noise, tiling=job.tiling)


def reference_key(job: Job) -> Hashable:
    """Jobs of equal keys have the same references, encoded alike; None without any."""
    references = job.conditions.references
    if not references:
        return None
    pictures = tuple((reference.sha256, reference.place) for reference in references)
    request = job.request
    return pictures, job.draws_before_references, request.seed, request.rng, job.tiling


def encode_references(vae: Autoencoder, job: Job) -> Tensor:
    """The tokens (1, R, 64) of a job's references, one after the other."""
    request, references = job.request, job.conditions.references
    sizes = [reference.pixels.shape[1::-1] for reference in references]
    # sd-cli's: samples of the encoder, drawn after that of the picture to start from
    noises = make_noises(request.seed, sizes, request.rng, after=job.draws_before_references)
    tokens = []
    for reference, noise in zip(references, noises, strict=True):
        tokens.append(pack(encode(vae, reference.pixels, noise=noise, tiling=job.tiling)))
    return torch.cat(tokens, dim=1)


def control_key(use: ControlUse, job: Job) -> Hashable:
    """Uses of equal keys read the same tokens."""
    return use.sha256, job.tiling


def encode_control(vae: Autoencoder, use: ControlUse, job: Job) -> Tensor:
    """A control picture as tokens (1, L, 64): the mean of what the encoder allows."""
    return pack(encode(vae, use.pixels, tiling=job.tiling))


def control_pixels(use: ControlUse) -> Tensor:
    """The same as pixels (1, 3, H, W) from -1 to 1, for models that read those."""
    return torch.from_numpy(use.pixels).permute(2, 0, 1)[None].float() / 127.5 - 1


def decode_job(vae: Autoencoder, latent: Tensor, job: Job) -> np.ndarray:
    """(H, W, 3) uint8 RGB of the latent (1, 16, H/8, W/8) of a job's last pass. Where a mask is
    black, the starting picture's own pixels.
    """
    pixels = decode(vae, latent, tiling=job.last.tiling)
    if job.start is None or job.start.feather is None:
        return pixels
    return paste(pixels, job.start.pixels, job.start.feather)


def parameters_of(job: Job, fitting: Fitting, placement: Placement, compute: Compute) -> str:
    """The text that a job's picture carries, known before it is drawn."""
    return _described(job, {}, fitting, placement, compute)


def picture_of(
    job: Job, pixels: np.ndarray, fitting: Fitting, placement: Placement, compute: Compute
) -> Picture:
    """A job's picture, (H, W, 3) uint8 RGB, with the text that it carries."""
    parameters = parameters_of(job, fitting, placement, compute)
    return Picture(job, pixels, parameters, arithmetic_of(placement, compute))


def parameters_of_faces(
    job: Job, pixels: np.ndarray, fitting: Fitting, placement: Placement, compute: Compute
) -> str:
    """The text of a picture that was there, (H, W, 3) uint8 RGB, and whose faces a job has redrawn:
    the first face's, and which picture it was.
    """
    detail = job.request.detail
    assert detail is not None
    height, width = pixels.shape[:2]
    first = next(iter(job.passes), job)
    people = []
    for person in job.people_seen:
        people.append(replace(person.close_up(), box=person.box))
    sha256 = StartPicture(pixels).sha256
    more = {
        "detail": detail_facts(job),
        "picture": {"sha256": sha256, "width": width, "height": height},
    }
    face = replace(first, subjects=tuple(people), start=None)
    return _described(face, more, fitting, placement, compute)


def _described(
    job: Job, more: dict[str, Any], fitting: Fitting, placement: Placement, compute: Compute
) -> str:
    files = fitting.files
    if fitting.upscale is not None:
        more = {**more, "upscale": fitting.upscale}
    if fitting.tae is not None:
        more = {**more, "tae": fitting.tae}
    return describe(
        job,
        more=more,
        dev=fitting.dev,
        models={name: getattr(files, name).name for name in MODELS},
        arithmetic=arithmetic_of(placement, compute),
        pulid=files.pulid.name if files.pulid else None,
        version=__version__,
    )


def arithmetic_of(placement: Placement, compute: Compute) -> str:
    """Flux's, and the other models' where a CPU beside a GPU makes it another."""
    told = str(placement.dtype).removeprefix("torch.")
    for name, device in (("text", placement.text_device), ("vae", placement.vae_device)):
        kind = placement.dtype_on(device)
        if kind != placement.dtype:
            told += f" {name} {str(kind).removeprefix('torch.')}"
    return told if compute == "float" else f"{told} {compute}"
