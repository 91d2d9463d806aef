"""The sub-commands of pulid-generate: parse, call, print.

    draw.py      no sub-command: draw pictures and write them
    batch.py     many rows with models that are loaded once
    sweep.py     values of one or two options, on one sheet
    validate.py  does an identity hold?
    verify.py    the three-way check
    serve.py     HTTP, and a studio in the browser
    demo.py      everything on one sheet, on the small world
    detail.py    the faces of pictures that are there
    doctor.py    is this machine ready?
    inspect.py   what a file is
    pull.py      fetch the files of a kit

Imports no torch; `cli` alone imports from here.
"""
