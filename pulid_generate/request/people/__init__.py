"""Who is in the picture, when, and where.

    identities.py   the text of one --identity; embeddings as one person, or several people
    id_schedule.py  at which steps an identity is seen, and how strongly
    regions.py      where in the picture somebody is

Imports no torch.
"""
