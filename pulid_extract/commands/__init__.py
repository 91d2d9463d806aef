"""The sub-commands of pulid-extract: each parses, calls and prints, and imports its work only when
it runs, so that `--help` is instant.

    extract.py  no sub-command: portraits -> one identity file
    batch.py    many portraits, one identity each
    faces.py    every face of a photograph
    worker.py   tasks line by line, networks stay
    score.py    how like a person the faces of pictures are
    pull.py     fetch the model files
    doctor.py   whether an extraction would work here
    cache.py    what the embedding cache holds

Imports no torch.
"""
