"""What to draw, as values: prompt, size, schedule, people, regions, the picture to start from.

    job.py            one picture, fitted to a model: all that decides its pixels but the files
    generation.py     one request: every number and word of it, checked
    passes/           what follows the first pass: a larger one, one over faces, enlarging
    conditions/       pictures: to start from, to refer to, to be controlled by
    people/           who is in the picture, when, and where
    prompts/          words, weighted words, and their ids
    skip_guidance.py  which layers are skipped, how strongly, when
    step_cache.py     which steps reuse what earlier ones computed, and by which rule
    tiling.py         tiles of the autoencoder

Imports no torch.
"""
