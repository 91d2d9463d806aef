"""All of sd-cli's flags, and what becomes of them.

    arguments.py  how they are taken out of a command line
    table.py      each of them, and what becomes of it
    flag.py       one of them

Imports no torch.
"""
