"""What to draw, as values: prompt, size, schedule, people, regions, the picture to start from.

    generation.py      one request: every number and word of it, checked
    prompt.py          a prompt's text: its file, its LoRA tags
    prompt_weights.py  (word:1.3) -> parts of a prompt and their weights
    tokens.py          a prompt in the ids that the text encoders read
    people.py          the text of one --identity; embeddings as one person, or several people
    id_schedule.py     at which steps an identity is seen, and how strongly
    regions.py         where in the picture somebody is
    skip_guidance.py   which layers are skipped, how strongly, when
    step_cache.py      which steps reuse what earlier ones computed, and by which rule
    start_picture.py   the picture to start from, its mask, the final paste
    reference_picture.py  what Kontext reads beside the picture: sizes, places
    control_picture.py  what ControlNets read, how strongly, when
    canny.py           edges of a picture
    conditions.py      pictures that a drawing is conditioned on
    mask_edge.py       a mask's edge: grown, shrunk, feathered
    hires.py           the second, larger pass: its size, its steps, what enlarges
    upscaling.py       a model that enlarges finished pictures: how often, in what tiles
    enlarging.py       pictures, regions, conditions in the size of that pass
    detail.py          the second pass over faces: sd-cli's keys, and the prompts of each face
    tiling.py          tiles of the autoencoder
    job.py             one picture, fitted to a model: all that decides its pixels but the files

Imports no torch.
"""
