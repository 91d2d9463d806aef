"""From requests to pictures: fitted to files, encoded, denoised, decoded; one order for whoever
draws.

    face_pass.py   which faces of a drawn picture are redrawn, and the picture with them
    previewing.py  what latents in work would come to, as a file
    prompt_encoding.py  prompts that the cache does not hold, through CLIP-L and T5
    fitting.py     a request and the model's header -> a job, or the reason why there is none
    texts.py       encoded prompts: what Flux reads of them, and where they are kept
    text_cache.py  entries on disk by key, bounded, sealed
    pixels.py      a job's starting picture to a latent, its latent to pixels, its metadata
    loading.py     each model in the form and the place that the plan gives it
    planning.py    which models stay beside Flux, for all jobs that were announced
    loaded.py      the models that are there now, and what hangs on them
    conditioning.py  references and what ControlNets read, encoded for the pictures in work
    larger_pass.py  drawn pictures enlarged and denoised again
    denoiser.py    latents of jobs: text, identities, guidance, starting pictures, the sampler
    callers.py     what the engine asks of who draws, and hands back
    engine.py      the order of the stages
    pipeline.py    the same as one object, for a library's user

All but text_cache, callers and face_pass import torch.
"""
