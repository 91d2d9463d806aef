"""From noise to latents: pure functions of tensors.

    noise       seeded standard normal latents, on the CPU, the same on every device
    packing     latents <-> Flux's tokens
    schedules   the times of the steps
    samplers    one step method each: velocity, latent and times in, the latent of every step out
    guidance    what is made of a model's branches before a sampler sees it: true CFG, skip-layer guidance, inpainting
    denoise     the loop over all of it

Knows nothing of files, flags, pictures, models or identities: the model is a function that predicts a velocity.
Shapes: latents (1, 16, H/8, W/8) of the autoencoder; packed (1, L, 64) with L = (H/16)(W/16), as Flux reads them.
"""

from __future__ import annotations

from pulid_generate.sampling.denoise import Predict, denoise
from pulid_generate.sampling.guidance import Branch, Guidance, Inpaint, latent_mask
from pulid_generate.sampling.noise import NoiseStream, Rng, add_noise, make_noise, philox_randn
from pulid_generate.sampling.packing import LATENT_CHANNELS, LATENT_SCALE, PATCH, pack, position_ids, token_count, unpack
from pulid_generate.sampling.samplers import SAMPLERS, evaluations
from pulid_generate.sampling.schedules import cut_schedule, make_schedule, resolution_mu, schedule_mu, shifted_schedule

__all__ = [
    "LATENT_CHANNELS",
    "LATENT_SCALE",
    "PATCH",
    "SAMPLERS",
    "Branch",
    "Guidance",
    "Inpaint",
    "NoiseStream",
    "Predict",
    "Rng",
    "add_noise",
    "cut_schedule",
    "denoise",
    "evaluations",
    "latent_mask",
    "make_noise",
    "make_schedule",
    "pack",
    "philox_randn",
    "position_ids",
    "resolution_mu",
    "schedule_mu",
    "shifted_schedule",
    "token_count",
    "unpack",
]
