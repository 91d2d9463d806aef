"""The flags of a generation, a table for each subject.

    drawing.py     what is drawn, and along which steps
    caching.py     which steps reuse what earlier ones computed
    conditions.py  pictures that a drawing is conditioned on
    identity.py    who is in the picture, how strongly, and when
    models.py      which files
    placement.py   where models run, in what arithmetic and memory
    hires.py       the second, larger pass over a picture
    upscaling.py   a model that enlarges finished pictures
    detail.py      the second pass over the faces of a picture
    preview.py     previews of a picture in work
    output.py      what is written, and what is said

Imports no torch.
"""
