"""From noise to latents: pure functions of tensors.

    names.py      names of samplers and schedules, and why some are refused. Imports no torch
    noise.py      seeded standard normal latents, on the CPU, the same on every device
    packing.py    latents <-> Flux's tokens
    schedules.py  the times of the steps
    samplers.py   one step method each: velocity, latent and times in, the latent of every step out
    guidance.py   what is made of a model's branches: true CFG, skip-layer guidance, inpainting
    denoise.py    the loop over all of it

Knows nothing of files, flags, pictures, models or identities: the model is a function that predicts
a velocity. Shapes: latents (1, 16, H/8, W/8) of the autoencoder; packed (1, L, 64) with L =
(H/16)(W/16), as Flux reads them.
"""
