"""Every flag, as tables: those of a generation, those of each command, and all of sd-cli's.

    drawing.py          what is drawn, and along which steps
    caching.py          which steps reuse what earlier ones computed
    conditions.py       pictures that a drawing is conditioned on
    identity.py         who is in the picture, how strongly, and when
    models.py           which files
    placement.py        where models run, in what arithmetic and memory
    hires.py            the second, larger pass over a picture
    upscaling.py        a model that enlarges finished pictures
    detail.py           the second pass over the faces of a picture
    pictures.py         pictures that are there already
    preview.py          previews of a picture in work
    output.py           what is written, and what is said
    likeness.py         who pictures are compared with; how many seeds are tried
    batch.py            where rows come from, and how many pictures are drawn at once
    validation.py       what an identity is validated with
    serve.py            where a server listens, and how much it takes
    commands.py         which of these each command takes
    help_pages.py       what stands first in the --help of each command
    names.py            how a field is written on the command line
    sdcli.py            all of sd-cli's flags and what becomes of them
    sdcli_flag.py       one of them
    sdcli_arguments.py  how they are taken out of a command line

Imports no torch.
"""
