"""Which flags each command takes, and those that only some take.

    tables.py      the table of each command: a generation's, and its own
    names.py       how a field of them is written on the command line
    batch.py       where rows come from, and how many pictures are drawn at once
    likeness.py    who pictures are compared with; how many seeds are tried
    pictures.py    pictures that are there already
    validation.py  what an identity is validated with
    serve.py       where a server listens, and how much it takes

Imports no torch.
"""
