"""The sub-commands of pulid-generate: parse, call, print.

    draw      no sub-command: draw pictures and write them
    batch     many rows with models that are loaded once
    sweep     values of one or two options, on one sheet
    validate  does an identity hold?
    verify    the three-way check
    serve     HTTP, and a studio in the browser
    doctor    is this machine ready?
    inspect   what a file is
    pull      fetch the files of a kit

Imports no torch; `cli` alone imports from here.
"""
