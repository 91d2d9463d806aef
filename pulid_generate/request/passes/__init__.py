"""What follows the first pass: a larger one, one over faces, and a model that enlarges.

    hires.py      the second, larger pass: its size, its steps, what enlarges
    enlarging.py  pictures, regions, conditions in the size of that pass
    detail.py     the second pass over faces: sd-cli's keys, and the prompts of each face
    upscaling.py  a model that enlarges finished pictures: how often, in what tiles

Imports no torch.
"""
