"""The networks of the identity stack, and how several results become one.

    checkpoint.py  tensors out of a file, strictly into a module
    eva_clip.py    EVA02-CLIP's image tower: grey face -> pooled vector, hidden states
    idformer.py    IDFormer: features of portraits -> identity tokens
    fusion.py      are they one person, and averages of their tokens

fusion.py is numpy; the others are torch.
"""
