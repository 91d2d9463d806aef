"""Pictures in and out: a portrait as pixels, marks and captioned sheets.

    sources.py   the pictures of one command line, as bytes
    portrait.py  a picture file -> upright pixels, the long side limited, a margin around
    regions.py   boxes and masks by hand: what they leave, and a box cut out
    drawing.py   marks on a photograph, captioned tiles on a sheet, PNG
    preview.py   the sheet of one extraction

Imports no torch.
"""
