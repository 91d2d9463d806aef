"""From requests to pictures: fitted to files, encoded, denoised, decoded; one order for whoever
draws.

    fitting     a request and the model's header -> a job, or the reason why there is none
    texts       encoded prompts: what Flux reads of them, and where they are kept
    text_cache  entries on disk by key, bounded, sealed
    pixels      a job's starting picture to a latent, its latent to pixels, its metadata
    loading     each model in the form and the place that the plan gives it
    planning    which models stay beside Flux, for all jobs that were announced
    loaded      the models that are there now, and what hangs on them
    denoiser    latents of jobs: text, identities, guidance, starting pictures, the sampler
    callers     what the engine asks of who draws, and hands back
    engine      the order of the stages
    pipeline    the same as one object, for a library's user

All but text_cache and callers import torch.
"""
